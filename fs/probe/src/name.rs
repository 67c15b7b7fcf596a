//! Step, epoch and metrics in names, and what is left of a name when its numbers are taken out.

use std::cmp::Ordering;
use std::collections::BTreeMap;

/// What a name tells.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct NameFacts {
    /// The number after `step`, `iter`, `global_step`, `checkpoint`, `ckpt` or, alone, of the whole name.
    pub step: Option<u64>,
    /// The number after `epoch` or `e`.
    pub epoch: Option<u64>,
    /// Every other `name=number`.
    pub metrics: BTreeMap<String, f64>,
    /// The name with its numbers replaced by `*`: names of one series are alike.
    pub template: String,
}

impl NameFacts {
    /// Whether it is the only one of its kind: `best.pt`, `last.ckpt`.
    #[must_use]
    pub fn is_singleton(&self) -> bool {
        !self.template.contains('*')
    }
}

const STEP_WORDS: &[&str] =
    &["step", "steps", "global_step", "globalstep", "iter", "iteration", "checkpoint", "ckpt", "model", "it"];
const EPOCH_WORDS: &[&str] = &["epoch", "ep", "e"];

struct Number {
    start: usize,
    end: usize,
    value: f64,
}

/// Reads a name. Extensions take part in the template only.
#[must_use]
pub fn read_name(name: &str) -> NameFacts {
    let mut facts = NameFacts::default();
    let mut rest = 0;
    let mut bare = None;
    for number in numbers(name) {
        let before = name.get(rest..number.start).unwrap_or_default();
        facts.template.push_str(before);
        facts.template.push('*');
        rest = number.end;
        let is_metric = before.ends_with('=');
        let word = word_before(before);
        let whole = (number.value >= 0.0 && number.value.fract() == 0.0 && number.value < 1e15)
            .then_some(number.value as u64);
        let last = word.rsplit('_').next().unwrap_or_default();
        match whole {
            Some(value) if EPOCH_WORDS.contains(&word.as_str()) || last == "epoch" => {
                facts.epoch = Some(value);
            }
            Some(value) if STEP_WORDS.contains(&word.as_str()) || STEP_WORDS.contains(&last) => {
                facts.step = Some(value);
            }
            _ if is_metric && !word.is_empty() && number.value.is_finite() => {
                facts.metrics.insert(word, number.value);
            }
            Some(value) if word.is_empty() && bare.is_none() => bare = Some(value),
            _ => {}
        }
    }
    facts.template.push_str(name.get(rest..).unwrap_or_default());
    if facts.step.is_none() && facts.epoch.is_none() {
        facts.step = bare;
    }
    facts
}

/// The word right before a number, separators between them left out.
fn word_before(text: &str) -> String {
    let text = text.trim_end_matches(['-', '_', '=', '.']);
    let start = text.rfind(|c: char| !c.is_alphanumeric() && c != '_').map_or(0, |at| at + 1);
    text.get(start..).unwrap_or_default().trim_matches('_').to_ascii_lowercase()
}

/// Numbers of a name from left to right; decimals and signs only after `=`, where a metric stands. A digit inside a
/// word (`h5`, `bf16`) belongs to the word only when a letter without meaning precedes it.
fn numbers(name: &str) -> Vec<Number> {
    let bytes = name.as_bytes();
    let mut found = Vec::new();
    let mut at = 0;
    // What follows the last dot is an extension (`.h5`) unless it is a decimal.
    let extension = name
        .rfind('.')
        .filter(|dot| name.get(dot + 1..).is_some_and(|rest| rest.starts_with(char::is_alphabetic)));
    let limit = extension.unwrap_or(bytes.len());
    while at < limit {
        let after_equals = at > 0 && bytes.get(at - 1) == Some(&b'=');
        let is_digit = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_digit);
        let is_signed = after_equals && bytes.get(at) == Some(&b'-') && is_digit(at + 1);
        if !is_digit(at) && !is_signed {
            at += 1;
            continue;
        }
        let start = at;
        at += usize::from(is_signed);
        let digits = |mut at: usize| {
            while is_digit(at) {
                at += 1;
            }
            at
        };
        at = digits(at);
        if after_equals {
            if bytes.get(at) == Some(&b'.') && is_digit(at + 1) {
                at = digits(at + 1);
            }
            if matches!(bytes.get(at), Some(b'e' | b'E')) {
                let exponent = at + 1 + usize::from(matches!(bytes.get(at + 1), Some(b'-' | b'+')));
                if is_digit(exponent) {
                    at = digits(exponent);
                }
            }
        }
        let value = name.get(start..at).and_then(|text| text.parse().ok()).unwrap_or(f64::NAN);
        found.push(Number { start, end: at, value });
    }
    found
}

/// Compares names so that numbers in them count as numbers: `step-9` comes before `step-10`.
#[must_use]
pub fn natural_order(a: &str, b: &str) -> Ordering {
    let (mut left, mut right) = (a.as_bytes(), b.as_bytes());
    loop {
        let ([first, ..], [second, ..]) = (left, right) else {
            return left.len().cmp(&right.len()).then(a.cmp(b));
        };
        if first.is_ascii_digit() && second.is_ascii_digit() {
            let (x, y) = (digits(left), digits(right));
            let (short, other) = (trim_zeros(x), trim_zeros(y));
            let order = short.len().cmp(&other.len()).then_with(|| short.cmp(other));
            if order != Ordering::Equal {
                return order;
            }
            left = left.get(x.len()..).unwrap_or_default();
            right = right.get(y.len()..).unwrap_or_default();
        } else if first == second {
            left = left.get(1..).unwrap_or_default();
            right = right.get(1..).unwrap_or_default();
        } else {
            return first.cmp(second);
        }
    }
}

fn digits(text: &[u8]) -> &[u8] {
    let length = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    text.get(..length).unwrap_or_default()
}

fn trim_zeros(text: &[u8]) -> &[u8] {
    let zeros = text.iter().take_while(|byte| **byte == b'0').count();
    text.get(zeros..).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_frameworks_tell_their_step() {
        for (name, step, epoch) in [
            ("checkpoint-1500", Some(1500), None),
            ("epoch=3-step=400-val_loss=0.12.ckpt", Some(400), Some(3)),
            ("global_step20", Some(20), None),
            ("iter_0000200", Some(200), None),
            ("step-5", Some(5), None),
            ("ckpt-7.index", Some(7), None),
            ("model_epoch_12.pth", None, Some(12)),
            ("000300", Some(300), None),
            ("best.pt", None, None),
            ("model.weights.h5", None, None),
        ] {
            let facts = read_name(name);
            assert_eq!((facts.step, facts.epoch), (step, epoch), "{name}");
        }
        assert_eq!(read_name("epoch=3-step=400-val_loss=-0.12.ckpt").metrics["val_loss"], -0.12);
        assert_eq!(read_name("acc=1e-3.pt").metrics["acc"], 1e-3);
        assert_eq!(read_name("epoch=3-step=400.ckpt").template, "epoch=*-step=*.ckpt");
        assert!(read_name("best.pt").is_singleton() && !read_name("step-1.pt").is_singleton());
    }

    #[test]
    fn nine_comes_before_ten() {
        let mut names = ["s-10", "s-9", "s-009", "a", "s-100"];
        names.sort_by(|a, b| natural_order(a, b));
        assert_eq!(names, ["a", "s-009", "s-9", "s-10", "s-100"]);
    }
}
