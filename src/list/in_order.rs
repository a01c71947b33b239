//! Pages that come in any order, put in order.

use std::collections::BTreeMap;

/// Holds back what was made of pages until nothing before it is missing.
#[derive(Debug)]
pub(crate) struct InOrder<T> {
    /// Where the next part begins; `None` after the last.
    next: Option<String>,
    /// By where they begin: where they end, and what they hold.
    waiting: BTreeMap<String, (Option<String>, T)>,
}

impl<T> InOrder<T> {
    /// Begins where names with `prefix` begin.
    pub(crate) fn new(prefix: &str) -> Self {
        Self { next: Some(prefix.to_owned()), waiting: BTreeMap::new() }
    }

    /// Takes in a part of the listing, from its first name, inclusive, to the first beyond it. A part without a name of its
    /// own is dropped.
    pub(crate) fn push(&mut self, (from, to): (String, Option<String>), made: T) {
        if to.as_ref() != Some(&from) {
            self.waiting.insert(from, (to, made));
        }
    }

    /// The next part in order, if it is there.
    pub(crate) fn next(&mut self) -> Option<T> {
        let (to, made) = self.waiting.remove(self.next.as_ref()?)?;
        self.next = to;
        Some(made)
    }

    /// Whether the last part was given out.
    pub(crate) fn is_complete(&self) -> bool {
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
                parts.push((name(part), Some(name(part))), usize::MAX);
                parts.push((name(part), (part + 1 < cuts).then(|| name(part + 1))), part);
                given.extend(std::iter::from_fn(|| parts.next()));
                prop_assert!(given.iter().copied().eq(0..given.len()));
            }
            prop_assert!(parts.is_complete());
            prop_assert_eq!(given.len(), cuts);
        }
    }
}
