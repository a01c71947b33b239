//! Puts results of pages, which come in any order, in order.

use std::collections::BTreeMap;

use super::ranges::NameInterval;

/// Holds back the results of pages until nothing before them is missing.
#[derive(Debug)]
pub(super) struct InOrder<T> {
    /// Where the next part begins; `None` after the last.
    next: Option<String>,
    /// By where each part begins.
    waiting: BTreeMap<String, WaitingPart<T>>,
}

#[derive(Debug)]
struct WaitingPart<T> {
    /// Where the part ends, exclusive; `None` at the end of the listing.
    to: Option<String>,
    made: T,
}

impl<T> InOrder<T> {
    /// The first part begins at `prefix`.
    pub(super) fn new(prefix: &str) -> Self {
        Self { next: Some(prefix.to_owned()), waiting: BTreeMap::new() }
    }

    /// Takes in the result of a part of the listing. A part with an empty interval is dropped.
    pub(super) fn push(&mut self, interval: NameInterval, made: T) {
        if !interval.is_empty() {
            let NameInterval { from, to } = interval;
            self.waiting.insert(from, WaitingPart { to, made });
        }
    }

    /// The result of the next part in order, if it is there.
    pub(super) fn next(&mut self) -> Option<T> {
        let WaitingPart { to, made } = self.waiting.remove(self.next.as_ref()?)?;
        self.next = to;
        Some(made)
    }

    /// Whether the last result was handed out.
    pub(super) fn is_complete(&self) -> bool {
        self.next.is_none()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn parts_come_in_order_whatever_the_order_they_came_in(
            (cuts, order) in (1usize..40).prop_flat_map(|cuts| {
                (Just(cuts), Just((0..cuts).collect::<Vec<_>>()).prop_shuffle())
            }),
        ) {
            let name = |cut: usize| if cut == 0 { "p/".to_owned() } else { format!("p/{cut:02}") };
            let mut parts = InOrder::new("p/");
            let mut given = Vec::new();
            for part in order {
                prop_assert!(!parts.is_complete());
                let interval = |to| NameInterval { from: name(part), to };
                parts.push(interval(Some(name(part))), usize::MAX);
                parts.push(interval((part + 1 < cuts).then(|| name(part + 1))), part);
                given.extend(std::iter::from_fn(|| parts.next()));
                prop_assert!(given.iter().copied().eq(0..given.len()));
            }
            prop_assert!(parts.is_complete());
            prop_assert_eq!(given.len(), cuts);
        }
    }
}
