//! The changes of one transaction in the order in which they were made.

use std::collections::HashMap;

/// A change's rows: which version it has replaced, and which one it has made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Step {
    /// The table, in one layout.
    pub(super) layout: i64,
    pub(super) old: Option<String>,
    pub(super) new: Option<String>,
}

/// Returns the order of a transaction's changes: who makes a version of a row goes before who replaces it.
///
/// The triggers of a statement run when all of its rows are written. Where the app's own one, for the first row, changes the second, the
/// change is noted before the second row's own. Everything else stays as it was noted.
pub(super) fn made(steps: &[Step]) -> Vec<usize> {
    let mut makers: HashMap<(i64, &str), Vec<usize>> = HashMap::new();
    for (at, step) in steps.iter().enumerate() {
        if let Some(new) = &step.new {
            makers.entry((step.layout, new)).or_default().push(at);
        }
    }
    let maker = |at: usize| {
        let step = &steps[at];
        let all = makers.get(&(step.layout, step.old.as_deref()?))?;
        // What was made before is what was replaced; else what is noted next.
        let before = all.iter().rev().find(|maker| **maker < at);
        before.or_else(|| all.iter().find(|maker| **maker > at)).copied()
    };
    let mut order = Vec::with_capacity(steps.len());
    let mut placed = vec![false; steps.len()];
    for at in 0..steps.len() {
        let (mut waiting, mut next) = (Vec::new(), Some(at));
        while let Some(step) = next.filter(|step| !placed[*step] && !waiting.contains(step)) {
            waiting.push(step);
            next = maker(step);
        }
        while let Some(step) = waiting.pop() {
            placed[step] = true;
            order.push(step);
        }
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(steps: &[(&str, &str)]) -> Vec<usize> {
        let place = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let steps: Vec<Step> =
            steps.iter().map(|(old, new)| Step { layout: 1, old: place(old), new: place(new) }).collect();
        made(&steps)
    }

    #[test]
    fn who_makes_a_version_goes_before_who_replaces_it() {
        assert_eq!(order(&[("", "a"), ("b", "c"), ("", "b")]), [0, 2, 1]);
        assert_eq!(order(&[("b", "c"), ("c", ""), ("", "b")]), [2, 0, 1]);
        assert_eq!(order(&[("c", "d"), ("b", "c"), ("a", "b")]), [2, 1, 0]);
    }

    #[test]
    fn what_is_in_order_stays() {
        assert_eq!(order(&[("", "a"), ("a", "b"), ("b", "c"), ("c", "")]), [0, 1, 2, 3]);
        assert_eq!(order(&[("x", "a"), ("y", "b")]), [0, 1]);
        // After a rewrite the places begin anew: what was made before is not looked for behind.
        assert_eq!(order(&[("", "a"), ("a", "b"), ("", "a")]), [0, 1, 2]);
    }
}
