//! Explores the protocol within bounds of one's own: `cargo run -p pilgrimage-model -- --help`.

use std::io::{Write, stdout};
use std::process::ExitCode;

use pilgrimage_model::{Bounds, Delivery, Nodes, Protocol, Variant, explore, walk};

const HELP: &str = "\
usage: pilgrimage-model VARIANT [NAME=NUMBER]...

Explores every state of a variant (Specified is the protocol as it stands), or walks at random, and
prints the first violation with the steps that lead to it.

  values=1 crashes=1 fences=1 proposals=1 reads=0 stale_fetches=0   how much may happen
  isr=3          2 or 3 members at the beginning
  min_isr=2      min.insync
  separate=0     1: questions and answers of fetches are steps of their own
  threads=2      1 finds the shortest way to a violation
  walks=0        how many random walks, instead of every state
  seed=1         of the walks

Variants:
";

struct Order {
    protocol: Protocol,
    threads: usize,
    walks: u64,
    seed: u64,
}

fn order(mut arguments: impl Iterator<Item = String>) -> Result<Order, String> {
    let name = arguments.next().ok_or("which variant?")?;
    let variant = Variant::ALL
        .into_iter()
        .find(|variant| format!("{variant:?}") == name)
        .ok_or_else(|| format!("no variant is called {name}"))?;
    let bounds = Bounds {
        values: 1,
        crashes: 1,
        fences: 1,
        proposals: 1,
        reads: 0,
        stale_fetches: 0,
        isr: Nodes::EVERY,
        min_isr: 2,
        delivery: Delivery::Whole,
    };
    let mut order = Order {
        protocol: Protocol { variant, bounds },
        threads: 2,
        walks: 0,
        seed: 1,
    };
    for argument in arguments {
        let wrong = || format!("{argument} is not understood");
        let (name, number) = argument.split_once('=').ok_or_else(wrong)?;
        let number: u64 = number.parse().map_err(|_| wrong())?;
        let small = u8::try_from(number).map_err(|_| wrong());
        let bounds = &mut order.protocol.bounds;
        match (name, number) {
            ("values", _) => bounds.values = small?,
            ("crashes", _) => bounds.crashes = small?,
            ("fences", _) => bounds.fences = small?,
            ("proposals", _) => bounds.proposals = small?,
            ("reads", _) => bounds.reads = small?,
            ("stale_fetches", _) => bounds.stale_fetches = small?,
            ("min_isr", _) => bounds.min_isr = small?,
            ("isr", 2) => bounds.isr = Nodes::TWO,
            ("isr", 3) => bounds.isr = Nodes::EVERY,
            ("separate", 0) => bounds.delivery = Delivery::Whole,
            ("separate", 1) => bounds.delivery = Delivery::Separate,
            ("threads", 1..) => order.threads = small?.into(),
            ("walks", _) => order.walks = number,
            ("seed", _) => order.seed = number,
            _ => return Err(wrong()),
        }
    }
    Ok(order)
}

fn main() -> ExitCode {
    let order = match order(std::env::args().skip(1)) {
        Ok(order) => order,
        Err(error) => {
            let variants = Variant::ALL
                .map(|variant| format!("  {variant:?}\n"))
                .concat();
            let _ = write!(stdout(), "{error}\n\n{HELP}{variants}");
            return ExitCode::from(2);
        }
    };
    let (result, violated) = if 0 < order.walks {
        let walked = walk(order.protocol, order.walks, order.seed);
        let violated = walked.violation.is_some();
        (format!("{walked:#?}"), violated)
    } else {
        let outcome = explore(order.protocol, order.threads);
        let text = format!(
            "{} states, depth {}\nviolations: {:#?}",
            outcome.states, outcome.depth, outcome.violations
        );
        (text, !outcome.violations.is_empty())
    };
    let _ = writeln!(stdout(), "{:#?}\n{result}", order.protocol);
    ExitCode::from(u8::from(violated))
}
