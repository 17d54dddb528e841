//! From requested names to the set of elements that a build uses.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::{Element, Error, Library, OPERATING_SYSTEM};

/// What is implied besides the requested names.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Options {
    /// Do not imply `base`.
    pub skip_base: bool,
    /// Debian-style architecture; decides the implied block-device element.
    pub arch: String,
    /// The element that a ramdisk build puts first.
    pub ramdisk: Option<String>,
}

/// Why an element is in the set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// The user named it.
    Requested,
    /// It belongs to every build, or to every build of this kind.
    Implied {
        /// What implies it, such as `vm`; `None` for `base`, which every build has.
        by: Option<String>,
    },
    /// `element-deps` of this element names it.
    DependencyOf(String),
}

/// An element of the set and why it is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selected {
    /// The element.
    pub element: Element,
    /// Why it is there.
    pub reason: Reason,
}

/// The elements of a build, in order: arguments, then dependencies breadth first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ElementSet {
    selected: Vec<Selected>,
}

impl ElementSet {
    /// The elements with their reasons.
    pub fn selected(&self) -> &[Selected] {
        &self.selected
    }

    /// The elements.
    pub fn elements(&self) -> impl Iterator<Item = &Element> {
        self.selected.iter().map(|selected| &selected.element)
    }

    /// Their names, as in `IMAGE_ELEMENT`.
    pub fn names(&self) -> Vec<&str> {
        self.elements()
            .map(|element| element.name.as_str())
            .collect()
    }

    /// Whether the element is in the set.
    pub fn contains(&self, name: &str) -> bool {
        self.elements().any(|element| element.name == name)
    }
}

/// Expands `requested` by what is implied and by dependencies.
pub fn resolve(
    library: &Library,
    requested: &[String],
    options: &Options,
) -> Result<ElementSet, Error> {
    let roots = roots(requested, options);
    let mut reasons: BTreeMap<&str, Reason> = BTreeMap::new();
    let mut dependency_names: BTreeMap<String, Reason> = BTreeMap::new();
    let mut order: Vec<String> = Vec::new();
    let mut queue: VecDeque<String> = VecDeque::new();
    for (name, reason) in &roots {
        queue.push_back(name.clone());
        if !reasons.contains_key(name.as_str()) {
            reasons.insert(name, reason.clone());
            order.push(name.clone());
        }
    }
    let mut wanted: BTreeSet<String> = order.iter().cloned().collect();
    let mut provided: BTreeMap<String, String> = BTreeMap::new();
    let why = |name: &str, dependencies: &BTreeMap<String, Reason>| {
        reasons
            .get(name)
            .or_else(|| dependencies.get(name))
            .cloned()
    };

    while let Some(name) = queue.pop_front() {
        if provided.contains_key(&name) {
            continue;
        }
        let Some(element) = library.get(&name) else {
            let mut chain = Vec::new();
            let mut current = name.clone();
            while let Some(Reason::DependencyOf(parent)) = why(&current, &dependency_names) {
                if chain.contains(&parent) {
                    break;
                }
                chain.push(parent.clone());
                current = parent;
            }
            chain.reverse();
            let similar = library.similar(&name);
            return Err(Error::Missing {
                name,
                chain,
                similar,
            });
        };
        for thing in element.provides()? {
            if let Some(first) = provided.get(&thing) {
                return Err(Error::AlreadyProvided {
                    thing,
                    first: first.clone(),
                    second: name,
                });
            }
            provided.insert(thing, name.clone());
        }
        for dependency in element.dependencies()? {
            if provided.contains_key(&dependency) || !wanted.insert(dependency.clone()) {
                continue;
            }
            dependency_names.insert(dependency.clone(), Reason::DependencyOf(name.clone()));
            order.push(dependency.clone());
            queue.push_back(dependency);
        }
    }

    for (name, _) in &roots {
        if let Some(provider) = provided.get(name) {
            return Err(Error::RequestedAndProvided {
                name: name.clone(),
                provider: provider.clone(),
            });
        }
    }
    if !provided.contains_key(OPERATING_SYSTEM) {
        return Err(Error::MissingOs {
            available: library.operating_systems()?,
        });
    }
    let selected = order
        .into_iter()
        .filter(|name| !provided.contains_key(name))
        .filter_map(|name| {
            // A name that is neither known nor provided was refused above.
            let element = library.get(&name)?.clone();
            let reason = why(&name, &dependency_names)?;
            Some(Selected { element, reason })
        })
        .collect();
    Ok(ElementSet { selected })
}

/// The requested names with the implied ones in their places.
fn roots(requested: &[String], options: &Options) -> Vec<(String, Reason)> {
    let mut roots = Vec::new();
    if let Some(ramdisk) = &options.ramdisk {
        roots.push((
            ramdisk.clone(),
            Reason::Implied {
                by: Some("ramdisk build".into()),
            },
        ));
    }
    if !options.skip_base && !requested.iter().any(|name| name == "base") {
        roots.push(("base".into(), Reason::Implied { by: None }));
    }
    roots.extend(
        requested
            .iter()
            .map(|name| (name.clone(), Reason::Requested)),
    );
    let is_vm = requested.iter().any(|name| name == "vm");
    if is_vm
        && !requested
            .iter()
            .any(|name| name.starts_with("block-device-"))
    {
        let layout = if matches!(options.arch.as_str(), "arm64" | "aarch64") {
            "efi"
        } else {
            "mbr"
        };
        roots.push((
            format!("block-device-{layout}"),
            Reason::Implied {
                by: Some("vm".into()),
            },
        ));
    }
    roots
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use tempfile::TempDir;

    /// Each element as `name: deps | provides`.
    fn library(elements: &[&str]) -> (TempDir, Library) {
        let dir = tempfile::tempdir().unwrap();
        for line in elements {
            let (name, rest) = line.split_once(':').unwrap_or((line, ""));
            let (deps, provides) = rest.split_once('|').unwrap_or((rest, ""));
            let path = dir.path().join(name);
            fs::create_dir(&path).unwrap();
            for (file, words) in [("element-deps", deps), ("element-provides", provides)] {
                let words: Vec<_> = words.split_whitespace().collect();
                if !words.is_empty() {
                    fs::write(path.join(file), words.join("\n")).unwrap();
                }
            }
        }
        let library = Library::with_directories(&[dir.path().to_owned()]).unwrap();
        (dir, library)
    }

    fn run(elements: &[&str], requested: &str) -> Result<ElementSet, Error> {
        let (_dir, library) = library(elements);
        let requested: Vec<String> = requested.split_whitespace().map(str::to_owned).collect();
        let options = Options {
            skip_base: true,
            arch: "amd64".into(),
            ramdisk: None,
        };
        resolve(&library, &requested, &options)
    }

    #[test]
    fn order_is_arguments_then_dependencies_breadth_first() {
        let set = run(
            &[
                "os: c b | operating-system",
                "a: z",
                "b",
                "c: d",
                "d",
                "z: b",
            ],
            "os a",
        )
        .unwrap();
        assert_eq!(set.names(), ["os", "a", "c", "b", "z", "d"]);
        assert_eq!(set.selected()[2].reason, Reason::DependencyOf("os".into()));
    }

    #[test]
    fn cycles_and_self_dependencies_are_fine() {
        let set = run(&["os: a os | operating-system", "a: b", "b: a"], "os").unwrap();
        assert_eq!(set.names(), ["os", "a", "b"]);
    }

    #[test]
    fn a_provided_dependency_is_dropped_when_its_provider_comes_first() {
        let elements = [
            "os: | operating-system",
            "vm: bootloader block-device",
            "bootloader",
            "zipl: | bootloader",
            "block-device-gpt: | block-device",
        ];
        let set = run(&elements, "os vm zipl block-device-gpt").unwrap();
        assert_eq!(set.names(), ["os", "vm", "zipl", "block-device-gpt"]);
        let set = run(&elements, "os vm block-device-gpt").unwrap();
        assert_eq!(set.names(), ["os", "vm", "block-device-gpt", "bootloader"]);
    }

    #[test]
    fn base_and_a_block_device_are_implied() {
        let (_dir, library) = library(&[
            "os: | operating-system",
            "vm",
            "base",
            "block-device-mbr",
            "block-device-efi",
            "block-device-gpt",
            "ramdisk",
        ]);
        let names = |requested: &[&str], options: Options| {
            let requested: Vec<String> = requested.iter().map(|&s| s.to_owned()).collect();
            let set = resolve(&library, &requested, &options).unwrap();
            set.names().join(" ")
        };
        let arch = |arch: &str| Options {
            arch: arch.into(),
            ..Options::default()
        };
        assert_eq!(
            names(&["vm", "os"], arch("amd64")),
            "base vm os block-device-mbr"
        );
        assert_eq!(
            names(&["vm", "os"], arch("arm64")),
            "base vm os block-device-efi"
        );
        assert_eq!(
            names(&["vm", "os", "block-device-gpt"], arch("amd64")),
            "base vm os block-device-gpt"
        );
        assert_eq!(names(&["os", "base"], arch("amd64")), "os base");
        let ramdisk = Options {
            ramdisk: Some("ramdisk".into()),
            skip_base: true,
            arch: "amd64".into(),
        };
        assert_eq!(names(&["os"], ramdisk), "ramdisk os");
    }

    #[test]
    fn errors_say_who_is_to_blame() {
        let elements = [
            "os: a | operating-system",
            "other: | operating-system",
            "a: b",
            "b: debain",
            "debian",
            "plain",
            "zipl: | bootloader",
            "bootloader",
        ];
        let text = |requested: &str| {
            let error = run(&elements, requested).unwrap_err();
            format!("{error} -- {}", error.hint().unwrap())
        };
        assert_eq!(
            text("os"),
            "element `debain` not found, needed by `b`, which `a` needs, which `os` needs -- did you mean `debian`?"
        );
        assert_eq!(
            text("qqqqqqq"),
            "element `qqqqqqq` not found -- `kiln elements list` shows what there is; ELEMENTS_PATH adds directories of your own"
        );
        assert_eq!(
            text("plain"),
            "no operating system element is included -- add one of `os` or `other`"
        );
        assert_eq!(
            text("other os"),
            "`operating-system` is already provided by `other`, and `os` provides it too -- use only one of `other` and `os`"
        );
        assert_eq!(
            text("other other"),
            "`operating-system` is already provided by `other`, and `other` provides it too -- `other` is named twice; name it once"
        );
        assert_eq!(
            text("other bootloader zipl"),
            "element `bootloader` was requested but `zipl` already provides it -- drop either `bootloader` or `zipl`"
        );
    }

    #[test]
    fn naming_an_element_twice_is_harmless() {
        let set = run(&["os: | operating-system", "a"], "a os a").unwrap();
        assert_eq!(set.names(), ["a", "os"]);
    }

    /// An element, then who needs it, up to a requested or implied one.
    fn chain(set: &ElementSet, name: &str) -> Vec<String> {
        let mut chain: Vec<String> = Vec::new();
        let mut next = Some(name.to_owned());
        while let Some(name) = next.take().filter(|name| !chain.contains(name)) {
            let found = set.selected().iter().find(|one| one.element.name == name);
            if let Some(Reason::DependencyOf(parent)) = found.map(|one| &one.reason) {
                next = Some(parent.clone());
            }
            chain.push(name);
        }
        chain
    }

    proptest::proptest! {
        #[test]
        fn every_element_is_there_for_a_reason(edges in proptest::collection::vec((0usize..8, 0usize..8), 0..20)) {
            let mut lines = vec!["os: e0 | operating-system".to_owned()];
            for n in 0..8 {
                let deps: Vec<String> = edges.iter().filter(|(a, _)| *a == n).map(|(_, b)| format!("e{b}")).collect();
                lines.push(format!("e{n}: {}", deps.join(" ")));
            }
            let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
            let set = run(&lines, "os").unwrap();
            for selected in set.selected() {
                let chain = chain(&set, &selected.element.name);
                proptest::prop_assert_eq!(chain.last().map(String::as_str), Some("os"));
                for dependency in selected.element.dependencies().unwrap_or_default() {
                    proptest::prop_assert!(set.contains(&dependency));
                }
            }
        }
    }
}
