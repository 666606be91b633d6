//! A list that nearly always has one element, which then lies where the list would: no memory is taken for it.

use std::iter::Chain;
use std::ops::{Deref, DerefMut};
use std::{option, vec};

/// Some things, in the order they came; whoever holds it bounds how many.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Few<T> {
    /// None.
    #[default]
    None,
    /// One.
    One(T),
    /// More, or what is left of them.
    Many(Vec<T>),
}

impl<T> Few<T> {
    /// Adds one behind the others.
    pub fn push(&mut self, item: T) {
        *self = match std::mem::take(self) {
            Few::None => Few::One(item),
            Few::One(first) => Few::Many(vec![first, item]),
            Few::Many(mut items) => {
                items.push(item);
                Few::Many(items)
            }
        };
    }
}

impl<T: Copy + PartialEq> Few<T> {
    /// Takes out all that equal `item`.
    pub fn remove(&mut self, item: T) {
        match self {
            Few::None => {}
            Few::One(only) if *only != item => {}
            Few::One(_) => *self = Few::None,
            Few::Many(items) => {
                items.retain(|other| *other != item);
                if let [only] = items[..] {
                    *self = Few::One(only);
                }
            }
        }
    }
}

impl<T> Deref for Few<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        match self {
            Few::None => &[],
            Few::One(item) => std::slice::from_ref(item),
            Few::Many(items) => items,
        }
    }
}

impl<T> DerefMut for Few<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        match self {
            Few::None => &mut [],
            Few::One(item) => std::slice::from_mut(item),
            Few::Many(items) => items,
        }
    }
}

impl<T> From<Vec<T>> for Few<T> {
    fn from(mut items: Vec<T>) -> Few<T> {
        match items.len() {
            0 | 1 => items.pop().map_or(Few::None, Few::One),
            _ => Few::Many(items),
        }
    }
}

impl<T> FromIterator<T> for Few<T> {
    fn from_iter<I: IntoIterator<Item = T>>(items: I) -> Few<T> {
        let mut items = items.into_iter();
        let Some(first) = items.next() else { return Few::None };
        let Some(second) = items.next() else { return Few::One(first) };
        Few::Many([first, second].into_iter().chain(items).collect())
    }
}

impl<T> IntoIterator for Few<T> {
    type Item = T;
    type IntoIter = Chain<option::IntoIter<T>, vec::IntoIter<T>>;

    fn into_iter(self) -> Self::IntoIter {
        let (one, many) = match self {
            Few::None => (None, Vec::new()),
            Few::One(item) => (Some(item), Vec::new()),
            Few::Many(items) => (None, items),
        };
        one.into_iter().chain(many)
    }
}

impl<'a, T> IntoIterator for &'a Few<T> {
    type Item = &'a T;
    type IntoIter = std::slice::Iter<'a, T>;

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
            let item = seeded.below(5);
            if seeded.below(2) == 0 && !list.contains(&item) {
                few.push(item);
                list.push(item);
            } else {
                few.remove(item);
                list.retain(|other| *other != item);
            }
            assert_eq!(*few, list[..]);
            assert!(list.len() != 1 || few == Few::One(list[0]));
            assert_eq!(Few::from(list.clone()), few);
            assert_eq!(list.iter().copied().collect::<Few<usize>>(), few);
            assert!(few.clone().into_iter().eq(list.iter().copied()));
        }
    }

    #[test]
    fn it_is_no_larger_than_a_list() {
        assert_eq!(size_of::<Few<(u64, u64)>>(), size_of::<Vec<u64>>());
    }
}
