//! Which cloud, and who asks: as openstacksdk reads `clouds.yaml` and `OS_*`.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use super::Error;
use crate::disk::yaml::{self, Map, Value};

/// Endings of files with settings, in the order in which they are looked for.
const SUFFIXES: [&str; 3] = ["yaml", "yml", "json"];
/// The name of the cloud that variables describe.
const ENVIRONMENT: &str = "envvars";
/// Variables and the settings that they are; `auth.` is within `auth`.
const VARIABLES: [(&str, &str); 34] = [
    ("OS_AUTH_URL", "auth.auth_url"),
    ("OS_USERNAME", "auth.username"),
    ("OS_USER_ID", "auth.user_id"),
    ("OS_PASSWORD", "auth.password"),
    ("OS_USER_DOMAIN_ID", "auth.user_domain_id"),
    ("OS_USER_DOMAIN_NAME", "auth.user_domain_name"),
    ("OS_TENANT_ID", "auth.project_id"),
    ("OS_TENANT_NAME", "auth.project_name"),
    ("OS_PROJECT_ID", "auth.project_id"),
    ("OS_PROJECT_NAME", "auth.project_name"),
    ("OS_PROJECT_DOMAIN_ID", "auth.project_domain_id"),
    ("OS_PROJECT_DOMAIN_NAME", "auth.project_domain_name"),
    ("OS_DOMAIN_ID", "auth.domain_id"),
    ("OS_DOMAIN_NAME", "auth.domain_name"),
    ("OS_SYSTEM_SCOPE", "auth.system_scope"),
    ("OS_TRUST_ID", "auth.trust_id"),
    ("OS_AUTH_TOKEN", "auth.token"),
    ("OS_TOKEN", "auth.token"),
    ("OS_DEFAULT_DOMAIN", "auth.default_domain_id"),
    ("OS_DEFAULT_DOMAIN_ID", "auth.default_domain_id"),
    ("OS_DEFAULT_DOMAIN_NAME", "auth.default_domain_name"),
    (
        "OS_APPLICATION_CREDENTIAL_ID",
        "auth.application_credential_id",
    ),
    (
        "OS_APPLICATION_CREDENTIAL_NAME",
        "auth.application_credential_name",
    ),
    (
        "OS_APPLICATION_CREDENTIAL_SECRET",
        "auth.application_credential_secret",
    ),
    ("OS_AUTH_TYPE", "auth_type"),
    ("OS_REGION_NAME", "region_name"),
    ("OS_ENDPOINT_TYPE", "interface"),
    ("OS_INTERFACE", "interface"),
    ("OS_CACERT", "cacert"),
    ("OS_CERT", "cert"),
    ("OS_INSECURE", "insecure"),
    ("OS_IMAGE_ENDPOINT", "image_endpoint_override"),
    ("OS_IMAGE_ENDPOINT_OVERRIDE", "image_endpoint_override"),
    ("OS_ENDPOINT", "image_endpoint_override"),
];

/// What a search for settings needs of its surroundings.
pub struct Lookup<'a> {
    /// A variable of the environment.
    pub variable: &'a dyn Fn(&str) -> Option<String>,
    /// The current directory.
    pub current_dir: &'a Path,
    /// `/etc/openstack`, but for tests.
    pub system_dir: &'a Path,
    /// The cloud that was asked for by name.
    pub cloud: Option<&'a str>,
    /// Settings that win over all others: name and value.
    pub overrides: Vec<(&'static str, String)>,
}

/// A cloud and who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cloud {
    /// Its name; `envvars` if variables describe it.
    pub name: String,
    /// Credentials.
    pub auth: Auth,
    /// Region to use.
    pub region: Option<String>,
    /// `public`, `internal` or `admin`.
    pub interface: String,
    /// Certificates of the authorities to trust.
    pub cacert: Option<PathBuf>,
    /// Take any certificate.
    pub insecure: bool,
    /// The image service, without asking the catalogue.
    pub image_endpoint: Option<String>,
}

/// Credentials.
#[derive(Clone, PartialEq, Eq)]
pub enum Auth {
    /// No authentication at all (a service that stands alone).
    None,
    /// User and password.
    Password {
        /// Keystone.
        url: String,
        /// The user.
        user: Who,
        /// The password.
        password: String,
        /// What the token is for.
        scope: Scope,
    },
    /// An application credential, which has its own project.
    Application {
        /// Keystone.
        url: String,
        /// Its id, or its name with its owner.
        id: Option<String>,
        /// Its name and owner.
        name: Option<(String, Who)>,
        /// The secret.
        secret: String,
    },
    /// Another token.
    Token {
        /// Keystone.
        url: String,
        /// The token.
        token: String,
        /// What the new token is for.
        scope: Scope,
    },
}

/// A user or project, by id or by name within a domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Who {
    /// By id.
    Id(String),
    /// By name.
    Name(String, Domain),
}

/// A domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Domain {
    /// By id.
    Id(String),
    /// By name.
    Name(String),
}

/// What a token is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// A project.
    Project(Who),
    /// A domain.
    Domain(Domain),
    /// The whole system.
    System,
    /// What a trust says.
    Trust(String),
    /// What Keystone takes as the user's default.
    Unscoped,
}

impl std::fmt::Debug for Auth {
    /// Shows no secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Auth::None => f.write_str("None"),
            Auth::Password {
                url, user, scope, ..
            } => f
                .debug_struct("Password")
                .field("url", url)
                .field("user", user)
                .field("scope", scope)
                .finish_non_exhaustive(),
            Auth::Application { url, id, name, .. } => f
                .debug_struct("Application")
                .field("url", url)
                .field("id", id)
                .field("name", name)
                .finish_non_exhaustive(),
            Auth::Token { url, scope, .. } => f
                .debug_struct("Token")
                .field("url", url)
                .field("scope", scope)
                .finish_non_exhaustive(),
        }
    }
}

/// Finds the cloud to send to.
///
/// # Errors
/// No cloud is named or found, or its settings cannot be used.
pub fn find(lookup: &Lookup<'_>) -> Result<Cloud, Error> {
    let variable = |name: &str| (lookup.variable)(name).filter(|value| !value.is_empty());
    let wanted = lookup
        .cloud
        .map(str::to_owned)
        .or_else(|| variable("OS_CLOUD"));
    let environment = from_environment(&variable);
    let described =
        variable("OS_AUTH_URL").is_some() || environment.get("image_endpoint_override").is_some();
    let (file, clouds) = clouds(lookup)?;
    if described && wanted.as_deref().is_none_or(|name| name == ENVIRONMENT) {
        return interpret(ENVIRONMENT, environment, lookup);
    }
    let have: Vec<String> = clouds.iter().map(|(name, _)| name.to_owned()).collect();
    let name = match wanted {
        Some(name) => name,
        None if have.len() == 1 => have[0].clone(),
        None => return Err(Error::NothingConfigured { have }),
    };
    let Some(Value::Map(cloud)) = clouds.get(&name) else {
        return Err(Error::NoCloud {
            name,
            have,
            searched: file.into_iter().collect(),
        });
    };
    let mut cloud = normalised(cloud);
    if let Some(profile) = text(&cloud, "profile").or_else(|| text(&cloud, "cloud")) {
        cloud = merged(profile_of(&name, &profile, lookup)?, &cloud);
    }
    // What the cloud leaves open, the environment may say.
    for key in ["region_name", "interface", "cacert"] {
        if let Some(value) = environment.get(key)
            && !cloud.contains(key)
        {
            cloud.set(key, value.clone());
        }
    }
    interpret(&name, cloud, lookup)
}

/// The settings that variables give.
fn from_environment(variable: &dyn Fn(&str) -> Option<String>) -> Map {
    let mut top = Map::default();
    let mut auth = Map::default();
    for (name, key) in VARIABLES {
        if let Some(value) = variable(name) {
            match key.strip_prefix("auth.") {
                Some(key) => auth.set(key, Value::text(value)),
                None => top.set(key, Value::text(value)),
            }
        }
    }
    top.set("auth", Value::Map(auth));
    top
}

/// The first file of this name, and all clouds with their secrets.
fn clouds(lookup: &Lookup<'_>) -> Result<(Option<PathBuf>, Map), Error> {
    let file = locate(lookup, "OS_CLIENT_CONFIG_FILE", "clouds");
    let secure = locate(lookup, "OS_CLIENT_SECURE_FILE", "secure");
    let mut all = Map::default();
    for path in [&file, &secure].into_iter().flatten() {
        if let Some(Value::Map(clouds)) = read(path)?.get("clouds") {
            all = merged(all, clouds);
        }
    }
    Ok((file, all))
}

/// Where a file with settings is.
fn locate(lookup: &Lookup<'_>, variable: &str, name: &str) -> Option<PathBuf> {
    let value = |name: &str| (lookup.variable)(name).filter(|value| !value.is_empty());
    if let Some(path) = value(variable) {
        return Some(lookup.current_dir.join(path));
    }
    let home = value("HOME").map(PathBuf::from);
    // "If an implementation encounters a relative path [...] it should [...] ignore it."
    // https://specifications.freedesktop.org/basedir-spec/latest/#variables
    let configuration = value("XDG_CONFIG_HOME").map(PathBuf::from);
    let configuration = configuration.filter(|path| path.is_absolute());
    let directories = [
        Some(lookup.current_dir.to_owned()),
        configuration.map(|directory| directory.join("openstack")),
        home.map(|home| home.join(".config/openstack")),
        Some(lookup.system_dir.to_owned()),
    ];
    let files = directories
        .into_iter()
        .flatten()
        .flat_map(|directory| SUFFIXES.map(|suffix| directory.join(name).with_extension(suffix)));
    files.into_iter().find(|path| path.is_file())
}

fn read(path: &Path) -> Result<Map, Error> {
    let problem = |reason: String| Error::Settings {
        path: path.to_owned(),
        reason,
    };
    let text = crate::small::read_text(path).map_err(|error| problem(error.to_string()))?;
    match yaml::parse(&text) {
        Ok(Value::Map(map)) => Ok(map),
        Ok(Value::Null) => Ok(Map::default()),
        Ok(other) => Err(problem(format!("it is {}", other.kind_name()))),
        // What the parser quotes could be a password.
        Err(error) => Err(problem(match error.location() {
            Some(at) => format!("line {} is not valid YAML", at.line()),
            None => "it is not valid YAML".to_owned(),
        })),
    }
}

/// A profile of `clouds-public.yaml`.
fn profile_of(cloud: &str, profile: &str, lookup: &Lookup<'_>) -> Result<Map, Error> {
    let file = locate(lookup, "OS_CLIENT_VENDOR_FILE", "clouds-public");
    if let Some(path) = &file
        && let Some(Value::Map(clouds)) = read(path)?.get("public-clouds")
        && let Some(Value::Map(found)) = clouds.get(profile)
    {
        return Ok(normalised(found));
    }
    Err(Error::Setting {
        cloud: cloud.to_owned(),
        problem: format!("uses the profile `{profile}`, which is not known"),
        hint:
            "kiln brings no vendors' profiles: copy `auth_url` and the like into clouds.yaml, or \
               put the profile into clouds-public.yaml"
                .to_owned(),
    })
}

/// `over` laid over `under`, mappings key by key.
fn merged(mut under: Map, over: &Map) -> Map {
    for (key, value) in over.iter() {
        let value = match (under.get(key), value) {
            (Some(Value::Map(old)), Value::Map(new)) => Value::Map(merged(old.clone(), new)),
            (_, new) => new.clone(),
        };
        under.set(key, value);
    }
    under
}

/// With underscores in place of dashes in keys.
fn normalised(map: &Map) -> Map {
    let mut plain = Map::default();
    for (key, value) in map.iter() {
        let value = match value {
            Value::Map(map) => Value::Map(normalised(map)),
            other => other.clone(),
        };
        plain.set(key.replace('-', "_"), value);
    }
    plain
}

fn text(map: &Map, key: &str) -> Option<String> {
    let value = map.get(key)?.as_text()?;
    (!value.is_empty()).then(|| value.to_owned())
}

/// Makes a cloud of its settings.
fn interpret(name: &str, mut settings: Map, lookup: &Lookup<'_>) -> Result<Cloud, Error> {
    for (key, value) in &lookup.overrides {
        settings.set(*key, Value::text(value.clone()));
    }
    let auth = match settings.get("auth") {
        Some(Value::Map(auth)) => auth.clone(),
        _ => Map::default(),
    };
    let problem = |problem: &str, hint: &str| Error::Setting {
        cloud: name.to_owned(),
        problem: problem.to_owned(),
        hint: hint.to_owned(),
    };
    if settings.contains("cert") {
        return Err(problem(
            "wants a client certificate (`cert`), which kiln does not send",
            "use an application credential",
        ));
    }
    let flag = |key: &str| {
        text(&settings, key).is_some_and(|value| {
            matches!(
                value.to_ascii_lowercase().as_str(),
                "1" | "true" | "yes" | "on"
            )
        })
    };
    let refuses = |key: &str| {
        text(&settings, key).is_some_and(|value| {
            matches!(
                value.to_ascii_lowercase().as_str(),
                "0" | "false" | "no" | "off"
            )
        })
    };
    let region = text(&settings, "region_name").or_else(|| match settings.get("regions") {
        Some(Value::List(regions)) => match regions.first() {
            Some(Value::Map(region)) => text(region, "name"),
            Some(region) => region.as_text().map(str::to_owned),
            None => None,
        },
        _ => None,
    });
    let interface = text(&settings, "image_interface")
        .or_else(|| text(&settings, "interface"))
        .or_else(|| text(&settings, "endpoint_type"))
        .unwrap_or_else(|| "public".to_owned());
    Ok(Cloud {
        name: name.to_owned(),
        auth: credentials(&settings, &auth, &problem)?,
        region,
        interface: interface.trim_end_matches("URL").to_owned(),
        cacert: text(&settings, "cacert").map(|path| expand(&path, lookup)),
        insecure: flag("insecure") || refuses("verify"),
        image_endpoint: text(&settings, "image_endpoint_override")
            .or_else(|| text(&settings, "image_endpoint")),
    })
}

/// `~/x` below the home directory, `x` below the current one.
fn expand(path: &str, lookup: &Lookup<'_>) -> PathBuf {
    let home = (lookup.variable)("HOME");
    match (path.strip_prefix("~/"), home) {
        (Some(rest), Some(home)) => Path::new(&home).join(rest),
        _ => lookup.current_dir.join(OsStr::new(path)),
    }
}

fn credentials(
    settings: &Map,
    auth: &Map,
    problem: &dyn Fn(&str, &str) -> Error,
) -> Result<Auth, Error> {
    let get = |key: &str| text(auth, key);
    let domain = |id: &str, name: &str| {
        get(id)
            .map(Domain::Id)
            .or_else(|| get(name).map(Domain::Name))
            .or_else(|| get("default_domain_id").map(Domain::Id))
            .or_else(|| get("default_domain_name").map(Domain::Name))
            .or_else(|| get("default_domain").map(Domain::Id))
            .unwrap_or_else(|| Domain::Id("default".to_owned()))
    };
    let user = || {
        get("user_id").map(Who::Id).or_else(|| {
            get("username")
                .map(|name| Who::Name(name, domain("user_domain_id", "user_domain_name")))
        })
    };
    let kind = text(settings, "auth_type").unwrap_or_else(|| {
        if get("application_credential_secret").is_some() {
            "v3applicationcredential".to_owned()
        } else if get("token").is_some() && get("password").is_none() {
            "v3token".to_owned()
        } else {
            "password".to_owned()
        }
    });
    if kind == "none" {
        return Ok(Auth::None);
    }
    let url = get("auth_url").ok_or_else(|| {
        problem(
            "has no `auth_url`",
            "it is Keystone's address: `https://HOST:5000/v3` (`OS_AUTH_URL`)",
        )
    })?;
    let project = || {
        let named = get("project_name").or_else(|| get("tenant_name"));
        get("project_id")
            .or_else(|| get("tenant_id"))
            .map(Who::Id)
            .or_else(|| {
                named
                    .map(|name| Who::Name(name, domain("project_domain_id", "project_domain_name")))
            })
    };
    let scope = || {
        let domain = get("domain_id")
            .map(Domain::Id)
            .or_else(|| get("domain_name").map(Domain::Name));
        match (get("trust_id"), project(), get("system_scope"), domain) {
            (Some(trust), ..) => Scope::Trust(trust),
            (_, Some(project), ..) => Scope::Project(project),
            (_, _, Some(_), _) => Scope::System,
            (.., Some(domain)) => Scope::Domain(domain),
            _ => Scope::Unscoped,
        }
    };
    match kind.as_str() {
        "password" | "v3password" => Ok(Auth::Password {
            url,
            user: user().ok_or_else(|| {
                problem(
                    "has no `username`",
                    "set `username` or `user_id` (`OS_USERNAME`)",
                )
            })?,
            password: get("password").ok_or_else(|| {
                problem(
                    "has no `password`",
                    "put it into `secure.yaml` beside clouds.yaml, or into `OS_PASSWORD`",
                )
            })?,
            scope: scope(),
        }),
        "v3applicationcredential" => {
            let id = get("application_credential_id");
            let name = get("application_credential_name").zip(user());
            if id.is_none() && name.is_none() {
                return Err(problem(
                    "has no application credential",
                    "set `application_credential_id`, or its name with the user",
                ));
            }
            Ok(Auth::Application {
                url,
                id,
                name,
                secret: get("application_credential_secret").ok_or_else(|| {
                    problem(
                        "has no `application_credential_secret`",
                        "it was shown once, when the credential was made",
                    )
                })?,
            })
        }
        "token" | "v3token" => Ok(Auth::Token {
            url,
            token: get("token")
                .ok_or_else(|| problem("has no `token`", "set `token` (`OS_TOKEN`)"))?,
            scope: scope(),
        }),
        other => Err(problem(
            &format!("has the authentication type `{other}`, which kiln does not know"),
            "kiln knows v3password, v3applicationcredential, v3token and none",
        )),
    }
}

#[cfg(test)]
mod tests;
