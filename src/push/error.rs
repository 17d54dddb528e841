//! Why an image could not be sent.

use std::io;
use std::path::PathBuf;

/// Why an image could not be sent. [`Error::hint`] says what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file with settings cannot be read or understood.
    #[error("cannot use `{}`: {reason}", path.display())]
    Settings {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// No cloud of this name.
    #[error("no cloud is named `{name}`")]
    NoCloud {
        /// The name.
        name: String,
        /// Clouds that there are.
        have: Vec<String>,
        /// Where they are from; empty if no file was found.
        searched: Vec<PathBuf>,
    },
    /// Nothing says which cloud.
    #[error("nothing says which cloud to send to")]
    NothingConfigured {
        /// Clouds to choose from.
        have: Vec<String>,
    },
    /// A setting is missing or not usable.
    #[error("cloud `{cloud}` {problem}")]
    Setting {
        /// The cloud.
        cloud: String,
        /// What is wrong with it: a verb phrase.
        problem: String,
        /// What to do.
        hint: String,
    },
    /// The service cannot be reached, or the connection broke.
    #[error("cannot {action} at `{url}`: {reason}")]
    Transport {
        /// What was tried.
        action: &'static str,
        /// Where.
        url: String,
        /// What went wrong.
        reason: String,
    },
    /// The service said no.
    #[error("cannot {action}: {service} answered {status}{}", said(.message))]
    Refused {
        /// What was tried.
        action: &'static str,
        /// Who answered.
        service: &'static str,
        /// HTTP status.
        status: u16,
        /// What it said.
        message: String,
    },
    /// The service's answer is not what its interface promises.
    #[error("cannot {action}: {service} answered something else than was asked for ({what})")]
    Answer {
        /// What was tried.
        action: &'static str,
        /// Who answered.
        service: &'static str,
        /// What is missing.
        what: String,
    },
    /// The catalogue has no image service for these wishes.
    #[error("the cloud's catalogue has no {interface} image service{}", in_region(.region))]
    Catalogue {
        /// Interface that was looked for.
        interface: String,
        /// Region that was looked for.
        region: Option<String>,
        /// Endpoints that there are: `interface in region`.
        have: Vec<String>,
    },
    /// Images of this name are there already.
    #[error("an image named `{name}` is there already ({})", .ids.join(", "))]
    Exists {
        /// The name.
        name: String,
        /// Their ids.
        ids: Vec<String>,
    },
    /// The file cannot be read.
    #[error("cannot read `{}`", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is not an image that kiln understands.
    #[error(transparent)]
    Image(#[from] crate::inspect::Error),
    /// The file is not what an image service takes.
    #[error("`{}` {what}", path.display())]
    NotAnImage {
        /// The file.
        path: PathBuf,
        /// What it is: a verb phrase.
        what: String,
        /// What to do.
        hint: String,
    },
    /// The service has other bytes than the file.
    #[error("the service stored something else than `{}`: {what}", path.display())]
    Differs {
        /// The file.
        path: PathBuf,
        /// What differs.
        what: String,
    },
    /// The image did not become active.
    #[error("image {id} did not become active: it is {status}{}", said(.message))]
    NotActive {
        /// The image.
        id: String,
        /// Its state.
        status: String,
        /// What the service said.
        message: String,
    },
    /// The service does not offer a way of import.
    #[error("the image service does not offer `{method}`")]
    NoMethod {
        /// What was asked for.
        method: &'static str,
        /// What it offers.
        have: Vec<String>,
    },
    /// Ctrl-C.
    #[error("interrupted")]
    Interrupted,
    /// A failure after which a record could not be removed.
    #[error("{error}")]
    Leftover {
        /// What failed.
        error: Box<Error>,
        /// Records that are left.
        ids: Vec<String>,
    },
}

fn said(message: &str) -> String {
    if message.is_empty() {
        String::new()
    } else {
        format!(": {message}")
    }
}

fn in_region(region: &Option<String>) -> String {
    region
        .as_ref()
        .map_or_else(String::new, |region| format!(" in region `{region}`"))
}

impl Error {
    /// What the user can do about it, most likely remedy first.
    pub fn hints(&self) -> Vec<String> {
        let mut hints = Vec::new();
        if let Error::Leftover { error, ids } = self {
            hints = error.hints();
            hints.push(format!(
                "what is incomplete could not be removed; do it with `openstack image delete {}`",
                ids.join(" ")
            ));
            return hints;
        }
        hints.extend(self.hint());
        hints
    }

    fn hint(&self) -> Option<String> {
        let text = match self {
            Error::Settings { .. } => "it has to be YAML with a mapping `clouds`".to_owned(),
            Error::NoCloud { have, searched, .. } if !have.is_empty() => {
                let from = searched.first().map(|path| path.display().to_string());
                format!(
                    "`{}` has {}",
                    from.unwrap_or_default(),
                    have.join(", ")
                )
            }
            Error::NoCloud { .. } => {
                "no `clouds.yaml` was found in `.`, `~/.config/openstack` and `/etc/openstack`; \
                 `OS_CLIENT_CONFIG_FILE` names another"
                    .to_owned()
            }
            Error::NothingConfigured { have } if have.is_empty() => {
                "write `clouds.yaml` and name a cloud with `--os-cloud`, or set `OS_AUTH_URL` and \
                 the other `OS_*` variables (an `openrc` file does)"
                    .to_owned()
            }
            Error::NothingConfigured { have } => {
                format!("name one with `--os-cloud` or `OS_CLOUD`: {}", have.join(", "))
            }
            Error::Setting { hint, .. } | Error::NotAnImage { hint, .. } => hint.clone(),
            Error::Transport { reason, .. } if is_about_trust(reason) => {
                "name the authority that signed the service's certificate with `--os-cacert` or \
                 `cacert` in clouds.yaml"
                    .to_owned()
            }
            Error::Transport { .. } => {
                "check the network, the proxy variables and the URL".to_owned()
            }
            Error::Refused {
                service, status, ..
            } => refused(service, *status).to_owned(),
            Error::Answer { .. } => {
                "check that the URL is that of the service itself, and not of a dashboard".to_owned()
            }
            Error::Catalogue { have, .. } if have.is_empty() => {
                "the project has no image service, or the token has no project; check `project_name`"
                    .to_owned()
            }
            Error::Catalogue { have, .. } => format!(
                "it has {}; choose with `--os-region-name` and `--os-interface`",
                have.join(", ")
            ),
            Error::Exists { .. } => {
                "`--existing replace` removes it when the new one is active, `keep` leaves it if \
                 its content is the same, `add` adds another"
                    .to_owned()
            }
            Error::Read { .. } => "check the name, and that the file may be read".to_owned(),
            Error::Image(error) => return error.hint(),
            Error::Differs { .. } => {
                "if nothing wrote to the file meanwhile, the connection or the store is broken; \
                 the record was removed"
                    .to_owned()
            }
            Error::NotActive { .. } => "the service's log says why".to_owned(),
            Error::NoMethod { have, .. } if have.is_empty() => {
                "it offers none; leave off `--method`".to_owned()
            }
            Error::NoMethod { have, .. } => format!("it offers {}", have.join(", ")),
            Error::Interrupted | Error::Leftover { .. } => return None,
        };
        Some(text)
    }

    /// Whether trying again may help.
    pub(super) fn is_transient(&self) -> bool {
        match self {
            Error::Transport { reason, .. } => !is_about_trust(reason),
            Error::Refused { status, .. } => matches!(status, 408 | 429 | 500 | 502..=504),
            _ => false,
        }
    }
}

fn is_about_trust(reason: &str) -> bool {
    let reason = reason.to_ascii_lowercase();
    reason.contains("certificate") || reason.contains("unknownissuer")
}

/// What a status means to the one who sends an image.
fn refused(service: &str, status: u16) -> &'static str {
    match (service, status) {
        ("keystone", 401) => {
            "check user, password, domain and project (or the application credential, which may \
             have expired)"
        }
        ("keystone", 404) => {
            "`auth_url` should lead to Keystone's version 3: `https://HOST:5000/v3`"
        }
        (_, 401) => "the token has expired or is not for this cloud",
        (_, 403) => {
            "the cloud's policy or a quota forbids it: public images need an administrator, \
             properties may be protected, the project's image quota may be used up"
        }
        (_, 404) => "the image or the service's URL is gone; look with `openstack image list`",
        (_, 409) => "another client works on the image, or its id is taken; try again",
        (_, 413) => {
            "the image is larger than the service or the project's quota allows; qcow2 is smaller \
             than raw, and `openstack image delete` makes room"
        }
        (_, 415) => "the service does not take this disk format; `kiln convert` writes others",
        (_, 400) => {
            "the service takes no such record; formats and properties are shown by `--plan`"
        }
        (_, 500..=599) => "the service has a problem; try again later",
        _ => "the service's log says why",
    }
}
