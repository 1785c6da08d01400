// Modal dialogs: the browser keeps the focus inside and gives it back at the end.

import { button, h, iconButton, notice } from "./dom.js";

/**
 * Opens a form in a dialog. `submit` does the work; what it throws is shown in the dialog, which
 * stays open. Pressing Escape or Cancel closes it.
 */
export function formDialog({ title, intro, content, action, kind = "primary", submit }) {
  const errors = h("div", { "aria-live": "assertive" });
  const confirm = h("button", { type: "submit", class: `button ${kind}` }, h("span", {}, action));
  const close = () => dialog.close();
  const form = h("form", { class: "dialog-form", novalidate: true },
    h("div", { class: "dialog-head" }, h("h2", { id: "dialog-title" }, title), iconButton("Close", "close", { onclick: close })),
    intro && h("p", { class: "dialog-intro" }, intro),
    h("div", { class: "dialog-body" }, content),
    errors,
    h("div", { class: "dialog-foot" }, button("Cancel", { onclick: close }), confirm));
  const dialog = h("dialog", { class: "dialog", "aria-labelledby": "dialog-title" }, form);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    confirm.disabled = true;
    errors.replaceChildren();
    try {
      await submit();
      close();
    } catch (error) {
      errors.replaceChildren(notice("error", error.title ?? "That did not work", error.message));
      error.control?.focus();
    } finally {
      confirm.disabled = false;
    }
  });
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
  return dialog;
}

/** A mistake in a form: a sentence for people, and the control that holds it. */
export class FormError extends Error {
  constructor(message, control) {
    super(message);
    this.title = "Please check the form";
    this.control = control;
  }
}
