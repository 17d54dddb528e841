//! Programs that elements of the user's own bring in `bin/` under names of kiln's helpers.
//!
//! Hooks inside find the helpers first. An element that takes the place of one of
//! diskimage-builder's may bring what that one does: another `install-packages`, say.

use std::path::Path;

use crate::element::hooks::HookTree;
use crate::element::{Element, ElementSet};
use crate::helpers::{BROUGHT, GIVING_WAY};

/// Whether hooks inside get an element's program by this name, and not kiln's.
pub fn is_own(hooks: &HookTree, elements: &ElementSet, program: &str) -> bool {
    GIVING_WAY.contains(&program) && bringing(hooks, elements, program).is_some()
}

/// Programs that hooks do not get by their name: one sentence each.
pub fn unused(hooks: &HookTree, elements: &ElementSet) -> impl Iterator<Item = String> {
    let programs = BROUGHT
        .iter()
        .filter(|program| !GIVING_WAY.contains(program));
    programs.filter_map(|program| {
        let element = bringing(hooks, elements, program)?;
        Some(format!(
            "hooks that call `{program}` get kiln's own, and `bin/{program}` of element `{}` by \
             its path alone",
            element.name
        ))
    })
}

/// The element of the user's own that brings a program.
fn bringing<'a>(hooks: &HookTree, elements: &'a ElementSet, program: &str) -> Option<&'a Element> {
    let entry = hooks.get(Path::new("bin").join(program))?;
    let mut elements = elements.elements();
    elements
        .find(|element| entry.file.executable && element.name == entry.element && element.is_own())
}
