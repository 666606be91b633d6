//! The sessions of one alias: nearly always one, which then lies where the list would.

use std::ops::Deref;

use crate::names::LinkId;

/// Some links, in the order they came; its caller bounds how many.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) enum Few {
    /// None.
    #[default]
    None,
    /// One.
    One(LinkId),
    /// More, or what is left of them.
    Many(Vec<LinkId>),
}

impl Few {
    pub(super) fn push(&mut self, id: LinkId) {
        match self {
            Few::None => *self = Few::One(id),
            Few::One(first) => *self = Few::Many(vec![*first, id]),
            Few::Many(ids) => ids.push(id),
        }
    }

    pub(super) fn remove(&mut self, id: LinkId) {
        match self {
            Few::None => {}
            Few::One(only) if *only != id => {}
            Few::One(_) => *self = Few::None,
            Few::Many(ids) => {
                ids.retain(|other| *other != id);
                if let [only] = ids[..] {
                    *self = Few::One(only);
                }
            }
        }
    }
}

impl Deref for Few {
    type Target = [LinkId];

    fn deref(&self) -> &[LinkId] {
        match self {
            Few::None => &[],
            Few::One(id) => std::slice::from_ref(id),
            Few::Many(ids) => ids,
        }
    }
}

impl<'a> IntoIterator for &'a Few {
    type Item = &'a LinkId;
    type IntoIter = std::slice::Iter<'a, LinkId>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seeded::Seeded;

    #[test]
    fn it_holds_what_a_list_would() {
        let mut seeded = Seeded(1);
        let (mut few, mut list) = (Few::default(), Vec::new());
        for _ in 0..10_000 {
            let id = LinkId { index: seeded.below(5) as u32, generation: 0 };
            if seeded.below(2) == 0 && !list.contains(&id) {
                few.push(id);
                list.push(id);
            } else {
                few.remove(id);
                list.retain(|other| *other != id);
            }
            assert_eq!(*few, list[..]);
            assert!(list.len() != 1 || few == Few::One(list[0]));
        }
    }
}
