//! Keystone's version 3: a token, and where the image service is.
//!
//! <https://docs.openstack.org/api-ref/identity/v3/>

use serde_json::{Value, json};
use ureq::http::Method;

use super::Error;
use super::cloud::{Auth, Cloud, Domain, Scope, Who};
use super::http::{Call, Http, Service};

const KEYSTONE: Service = Service("keystone");
const ACTION: &str = "sign in";

/// What Keystone gives for credentials.
#[derive(Debug, Clone)]
pub(super) struct Access {
    /// The token; `None` for a service that wants none.
    pub token: Option<String>,
    /// The project that images will belong to.
    pub project: Option<String>,
    /// Address of the image service, without its version.
    pub image_url: String,
}

/// Signs in and finds the image service.
pub(super) fn sign_in(http: &Http, cloud: &Cloud) -> Result<Access, Error> {
    let (Some(url), Some(body)) = (url(&cloud.auth), request(&cloud.auth)) else {
        return match &cloud.image_endpoint {
            Some(endpoint) => Ok(Access {
                token: None,
                project: None,
                image_url: without_version(endpoint),
            }),
            None => Err(Error::Setting {
                cloud: cloud.name.clone(),
                problem: "has neither credentials nor the address of an image service".to_owned(),
                hint: "with `auth_type: none`, set `image_endpoint_override`".to_owned(),
            }),
        };
    };
    let url = format!("{url}/auth/tokens");
    let answer = http.repeat(&Call {
        action: ACTION,
        service: KEYSTONE,
        method: Method::POST,
        url: &url,
        token: None,
        body: Some(("application/json", body.to_string().into_bytes())),
    })?;
    let missing = |what: &str| Error::Answer {
        action: ACTION,
        service: KEYSTONE.0,
        what: what.to_owned(),
    };
    let token = answer
        .header("x-subject-token")
        .ok_or_else(|| missing("there is no token in its answer"))?
        .to_owned();
    let json = answer.json(ACTION, KEYSTONE)?;
    let details = json
        .get("token")
        .ok_or_else(|| missing("there is no token in its answer"))?;
    let image_url = match &cloud.image_endpoint {
        Some(endpoint) => endpoint.clone(),
        None => endpoint(details, cloud)?,
    };
    Ok(Access {
        token: Some(token),
        project: details["project"]["id"].as_str().map(str::to_owned),
        image_url: without_version(&image_url),
    })
}

/// Keystone's address with its version.
fn url(auth: &Auth) -> Option<String> {
    let (Auth::Password { url, .. } | Auth::Application { url, .. } | Auth::Token { url, .. }) =
        auth
    else {
        return None;
    };
    let url = url.trim_end_matches('/');
    let base = url
        .strip_suffix("/v3")
        .or_else(|| url.strip_suffix("/v2.0"))
        .unwrap_or(url);
    Some(format!("{base}/v3"))
}

/// The address of a service without the version at its end.
fn without_version(url: &str) -> String {
    let url = url.trim_end_matches('/');
    match url.rsplit_once('/') {
        Some((base, last))
            if last.strip_prefix('v').is_some_and(|version| {
                version.starts_with(|char: char| char.is_ascii_digit())
                    && version
                        .chars()
                        .all(|char| char.is_ascii_digit() || char == '.')
            }) =>
        {
            base.to_owned()
        }
        _ => url.to_owned(),
    }
}

/// The request for a token.
fn request(auth: &Auth) -> Option<Value> {
    let (identity, scope) = match auth {
        Auth::None => return None,
        Auth::Password {
            user,
            password,
            scope,
            ..
        } => {
            let mut user = who(user);
            user["password"] = json!(password);
            let identity = json!({"methods": ["password"], "password": {"user": user}});
            (identity, Some(scope))
        }
        Auth::Token { token, scope, .. } => {
            let identity = json!({"methods": ["token"], "token": {"id": token}});
            (identity, Some(scope))
        }
        Auth::Application {
            id, name, secret, ..
        } => {
            let mut credential = json!({"secret": secret});
            if let Some(id) = id {
                credential["id"] = json!(id);
            } else if let Some((name, user)) = name {
                credential["name"] = json!(name);
                credential["user"] = who(user);
            }
            let identity = json!({
                "methods": ["application_credential"],
                "application_credential": credential,
            });
            (identity, None)
        }
    };
    let mut auth = json!({"identity": identity});
    match scope {
        Some(Scope::Project(project)) => auth["scope"] = json!({"project": who(project)}),
        Some(Scope::Domain(domain)) => auth["scope"] = json!({"domain": domain_of(domain)}),
        Some(Scope::System) => auth["scope"] = json!({"system": {"all": true}}),
        Some(Scope::Trust(trust)) => auth["scope"] = json!({"OS-TRUST:trust": {"id": trust}}),
        // A credential has its own project; without a scope Keystone takes the default.
        Some(Scope::Unscoped) | None => {}
    }
    Some(json!({"auth": auth}))
}

fn who(who: &Who) -> Value {
    match who {
        Who::Id(id) => json!({"id": id}),
        Who::Name(name, domain) => json!({"name": name, "domain": domain_of(domain)}),
    }
}

fn domain_of(domain: &Domain) -> Value {
    match domain {
        Domain::Id(id) => json!({"id": id}),
        Domain::Name(name) => json!({"name": name}),
    }
}

/// The image service's address in the catalogue.
fn endpoint(token: &Value, cloud: &Cloud) -> Result<String, Error> {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let endpoints: Vec<Value> = list(&token["catalog"])
        .iter()
        .filter(|service| service["type"] == "image")
        .flat_map(|service| list(&service["endpoints"]))
        .collect();
    let region_of = |endpoint: &Value| {
        let region = endpoint["region_id"]
            .as_str()
            .or(endpoint["region"].as_str());
        region.unwrap_or_default().to_owned()
    };
    let found = endpoints.iter().find(|endpoint| {
        endpoint["interface"] == cloud.interface.as_str()
            && cloud
                .region
                .as_ref()
                .is_none_or(|region| region_of(endpoint) == *region)
    });
    match found.and_then(|endpoint| endpoint["url"].as_str()) {
        Some(url) => Ok(url.to_owned()),
        None => {
            let mut have: Vec<String> = endpoints
                .iter()
                .map(|endpoint| {
                    let interface = endpoint["interface"].as_str().unwrap_or("?");
                    format!("{interface} in {}", region_of(endpoint))
                })
                .collect();
            have.sort();
            have.dedup();
            Err(Error::Catalogue {
                interface: cloud.interface.clone(),
                region: cloud.region.clone(),
                have,
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_lose_their_version() {
        for (given, expected) in [
            ("https://image.example/v2", "https://image.example"),
            ("https://image.example/v2.15/", "https://image.example"),
            ("https://a.example/image", "https://a.example/image"),
            ("https://a.example:9292", "https://a.example:9292"),
            ("https://a.example/vault", "https://a.example/vault"),
        ] {
            assert_eq!(without_version(given), expected);
        }
        let token = |url: &str| Auth::Token {
            url: url.to_owned(),
            token: String::new(),
            scope: Scope::Unscoped,
        };
        for given in [
            "https://a.example/identity",
            "https://a.example/identity/",
            "https://a.example/identity/v3",
            "https://a.example/identity/v2.0/",
        ] {
            let url = url(&token(given)).unwrap();
            assert_eq!(url, "https://a.example/identity/v3");
        }
    }

    #[test]
    fn each_kind_of_credentials_makes_its_request() {
        let user = Who::Name("ann".to_owned(), Domain::Name("people".to_owned()));
        let url = "https://a.example".to_owned();
        let password = Auth::Password {
            url: url.clone(),
            user: user.clone(),
            password: "secret".to_owned(),
            scope: Scope::Project(Who::Id("p1".to_owned())),
        };
        assert_eq!(
            request(&password).unwrap(),
            json!({"auth": {
                "identity": {"methods": ["password"], "password": {"user": {
                    "name": "ann", "domain": {"name": "people"}, "password": "secret"}}},
                "scope": {"project": {"id": "p1"}}}})
        );
        assert!(!format!("{password:?}").contains("secret"));
        let application = Auth::Application {
            url: url.clone(),
            id: None,
            name: Some(("ci".to_owned(), user)),
            secret: "s3cret".to_owned(),
        };
        assert_eq!(
            request(&application).unwrap(),
            json!({"auth": {"identity": {
                "methods": ["application_credential"],
                "application_credential": {"name": "ci", "secret": "s3cret",
                    "user": {"name": "ann", "domain": {"name": "people"}}}}}})
        );
        let token = Auth::Token {
            url,
            token: "t0".to_owned(),
            scope: Scope::System,
        };
        assert_eq!(
            request(&token).unwrap(),
            json!({"auth": {
                "identity": {"methods": ["token"], "token": {"id": "t0"}},
                "scope": {"system": {"all": true}}}})
        );
        assert_eq!(request(&Auth::None), None);
    }
}
