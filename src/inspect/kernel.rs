//! Which kernel and initial ramdisk a root boots, of those in its `/boot`.
//!
//! The rules are diskimage-builder's, by family of distributions, so that the
//! pair is the one that its `baremetal` element would have copied.

use std::cmp::Ordering;

/// What is known about a root.
#[derive(Debug, Clone, Default)]
pub struct Boot {
    /// Names in `/boot`.
    pub names: Vec<String>,
    /// Targets of the links `vmlinuz` and `initrd` in `/boot`, where they are links.
    pub links: Option<(String, String)>,
    /// The family that files in `/etc` show.
    pub family: Family,
    /// Glob patterns for kernel and ramdisk (`DIB_BAREMETAL_KERNEL_PATTERN` and
    /// `DIB_BAREMETAL_INITRD_PATTERN`).
    pub patterns: Option<(String, String)>,
}

/// A family of distributions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Family {
    /// `/etc/debian_version` is there.
    Debian,
    /// `/etc/redhat-release` is there.
    RedHat,
    /// `/etc/SuSE-release` is there, or the distribution says that it is openSUSE.
    Suse,
    /// `/etc/gentoo-release` is there.
    Gentoo,
    /// None of them.
    #[default]
    Unknown,
}

/// The kernel and its ramdisk, as names in `/boot`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    /// The kernel.
    pub kernel: String,
    /// The initial ramdisk.
    pub ramdisk: String,
}

/// Picks the pair; `None` where the root has no kernel, or none with a ramdisk.
pub fn select(boot: &Boot) -> Option<Pair> {
    let newest = |pattern: &str| {
        let mut names: Vec<&String> = boot
            .names
            .iter()
            .filter(|name| matches(pattern, name))
            .collect();
        names.sort_by(|a, b| compare(b, a));
        names.into_iter().next().cloned()
    };
    let pair = |kernel: Option<String>, ramdisk: Option<String>| {
        Some(Pair {
            kernel: kernel?,
            ramdisk: ramdisk?,
        })
    };
    if let Some((kernel, ramdisk)) = &boot.patterns {
        return pair(newest(kernel), newest(ramdisk));
    }
    match boot.family {
        Family::RedHat => {
            let mut kernels: Vec<&String> = boot
                .names
                .iter()
                .filter(|name| name.starts_with("vmlinuz") && !name.contains("debug"))
                .filter(|name| !name.contains("rescue"))
                .collect();
            kernels.sort_by(|a, b| {
                let key = |name: &str| name.ends_with("PAE");
                key(b).cmp(&key(a)).then_with(|| compare(b, a))
            });
            kernels.into_iter().find_map(|kernel| {
                let version = kernel.strip_prefix("vmlinuz-")?;
                let ramdisk = format!("initramfs-{version}.img");
                boot.names.contains(&ramdisk).then(|| Pair {
                    kernel: kernel.clone(),
                    ramdisk,
                })
            })
        }
        Family::Suse if boot.links.is_some() => boot
            .links
            .clone()
            .map(|(kernel, ramdisk)| Pair { kernel, ramdisk }),
        Family::Gentoo => pair(newest("vmlinuz-*"), newest("initramfs-*")),
        _ => paired(boot, &newest),
    }
}

/// The newest kernel that has a ramdisk of its own version. DIB takes the newest
/// of each, which are of different kernels when one has no ramdisk yet.
fn paired(boot: &Boot, newest: &dyn Fn(&str) -> Option<String>) -> Option<Pair> {
    let mut kernels: Vec<&String> = boot
        .names
        .iter()
        .filter(|name| name.starts_with("vmlinu"))
        .collect();
    kernels.sort_by(|a, b| {
        let generic = |name: &str| name.ends_with("generic");
        generic(b).cmp(&generic(a)).then_with(|| compare(b, a))
    });
    for kernel in &kernels {
        let Some((_, version)) = kernel.split_once('-') else {
            continue;
        };
        let ramdisk = [
            format!("initrd.img-{version}"),
            format!("initrd-{version}"),
            format!("initramfs-{version}.img"),
            format!("initramfs-{version}"),
        ]
        .into_iter()
        .find(|name| boot.names.contains(name));
        if let Some(ramdisk) = ramdisk {
            return Some(Pair {
                kernel: (*kernel).clone(),
                ramdisk,
            });
        }
    }
    // Kernels without a version, as Alpine and Arch have them.
    let ramdisk = newest("initr*").filter(|name| !name.contains("fallback"));
    Some(Pair {
        kernel: kernels.first().map(|name| (*name).clone())?,
        ramdisk: ramdisk?,
    })
}

/// Whether a name matches a shell pattern of `*` and `?`.
fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name) = (pattern.as_bytes(), name.as_bytes());
    let (mut p, mut n) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(&byte) if byte == b'?' || byte == name[n] => {
                p += 1;
                n += 1;
            }
            _ => match star {
                Some((at, from)) => {
                    star = Some((at, from + 1));
                    p = at + 1;
                    n = from + 1;
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|&byte| byte == b'*')
}

/// Compares names as versions: runs of digits by their value.
fn compare(a: &str, b: &str) -> Ordering {
    let digits = |text: &str| {
        text.find(|c: char| !c.is_ascii_digit())
            .unwrap_or(text.len())
    };
    let (mut left, mut right) = (a, b);
    loop {
        let (one, other) = (left.chars().next(), right.chars().next());
        match (one, other) {
            (None, None) => return a.cmp(b),
            (None, _) => return Ordering::Less,
            (_, None) => return Ordering::Greater,
            (Some(x), Some(y)) if x.is_ascii_digit() && y.is_ascii_digit() => {
                let (x, rest) = left.split_at(digits(left));
                let (y, rest_y) = right.split_at(digits(right));
                let (short_x, short_y) = (x.trim_start_matches('0'), y.trim_start_matches('0'));
                let order = short_x
                    .len()
                    .cmp(&short_y.len())
                    .then_with(|| short_x.cmp(short_y));
                if order != Ordering::Equal {
                    return order;
                }
                (left, right) = (rest, rest_y);
            }
            (Some(x), Some(y)) if x == y => {
                (left, right) = (&left[x.len_utf8()..], &right[y.len_utf8()..]);
            }
            (Some(x), Some(y)) => return x.cmp(&y),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn boot(family: Family, names: &[&str]) -> Boot {
        Boot {
            names: names.iter().map(ToString::to_string).collect(),
            family,
            ..Boot::default()
        }
    }

    fn selected(boot: &Boot) -> Option<(String, String)> {
        select(boot).map(|pair| (pair.kernel, pair.ramdisk))
    }

    #[test]
    fn the_newest_kernel_with_a_ramdisk_is_selected() {
        for (family, names, kernel, ramdisk) in [
            (
                Family::Debian,
                &[
                    "vmlinuz-6.1.0-9-amd64",
                    "initrd.img-6.1.0-9-amd64",
                    "vmlinuz-6.1.0-38-amd64",
                    "initrd.img-6.1.0-38-amd64",
                ][..],
                "vmlinuz-6.1.0-38-amd64",
                "initrd.img-6.1.0-38-amd64",
            ),
            (
                Family::Debian,
                &[
                    "vmlinuz-5.15.0-1-kvm",
                    "initrd.img-5.15.0-1-kvm",
                    "vmlinuz-5.4.0-2-generic",
                    "initrd.img-5.4.0-2-generic",
                    "vmlinuz-5.4.0-10-generic",
                    "initrd.img-5.4.0-10-generic",
                ],
                "vmlinuz-5.4.0-10-generic",
                "initrd.img-5.4.0-10-generic",
            ),
            (
                Family::Debian,
                &["vmlinuz-6.2", "vmlinuz-6.1", "initrd.img-6.1"],
                "vmlinuz-6.1",
                "initrd.img-6.1",
            ),
            (
                Family::RedHat,
                &[
                    "vmlinuz-5.14.0-1.el9",
                    "vmlinuz-0-rescue-abc",
                    "initramfs-0-rescue-abc.img",
                    "initramfs-5.14.0-1.el9.img",
                    "vmlinuz-5.14.0-1.el9+debug",
                ],
                "vmlinuz-5.14.0-1.el9",
                "initramfs-5.14.0-1.el9.img",
            ),
            (
                Family::Gentoo,
                &["vmlinuz-6.6.1", "initramfs-6.6.1"],
                "vmlinuz-6.6.1",
                "initramfs-6.6.1",
            ),
            (
                Family::Unknown,
                &["vmlinuz-virt", "initramfs-virt", "System.map-virt"],
                "vmlinuz-virt",
                "initramfs-virt",
            ),
        ] {
            assert_eq!(
                selected(&boot(family, names)),
                Some((kernel.to_owned(), ramdisk.to_owned())),
                "{names:?}"
            );
        }
        assert_eq!(selected(&boot(Family::Debian, &["vmlinuz-6.1"])), None);
        assert_eq!(selected(&boot(Family::Unknown, &[])), None);
    }

    #[test]
    fn patterns_and_links_win_where_they_count() {
        let mut given = boot(Family::Debian, &["linux-1", "linux-12", "rd-1", "rd-2"]);
        given.patterns = Some(("linux-*".to_owned(), "rd-?".to_owned()));
        assert_eq!(
            selected(&given),
            Some(("linux-12".to_owned(), "rd-2".to_owned()))
        );
        let mut suse = boot(
            Family::Suse,
            &["vmlinuz-6", "initrd-6", "vmlinuz-7", "initrd-7"],
        );
        suse.links = Some(("vmlinuz-6".to_owned(), "initrd-6".to_owned()));
        assert_eq!(
            selected(&suse),
            Some(("vmlinuz-6".to_owned(), "initrd-6".to_owned()))
        );
    }

    #[test]
    fn patterns_match_as_in_a_shell() {
        for (pattern, name, expected) in [
            ("", "", true),
            ("*", "", true),
            ("a*c", "abbc", true),
            ("a*c", "abcb", false),
            ("*.img*", "x.img-1.img", true),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("**b", "aab", true),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }
}
