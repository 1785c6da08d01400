//! Who may do what (layer 2, pure): the decision on every operation, and the guard against web
//! pages that reach for a node on the reader's own machine.

mod decision;
pub mod guard;

pub use decision::{
    AnonymousAccess, Decision, Denied, Operation, Policy, Principal, Resource, decide,
};
