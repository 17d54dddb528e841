//! The image service's calls, version 2.
//!
//! <https://docs.openstack.org/api-ref/image/v2/>

use serde_json::{Value, json};
use ureq::http::Method as Verb;

use super::Error;
use super::cloud::Cloud;
use super::http::{Answer, Call, Http, Service};
use super::keystone::{self, Access};

const GLANCE: Service = Service("glance");
/// Most pages of a listing that are read.
const MAX_PAGES: usize = 100;

/// Who may see an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Visibility {
    /// Its project.
    Private,
    /// Its project, and those that it is shared with.
    Shared,
    /// Everybody, though nobody is shown it unasked.
    Community,
    /// Everybody.
    Public,
}

impl Visibility {
    /// All of them.
    pub const ALL: [Visibility; 4] = [
        Visibility::Private,
        Visibility::Shared,
        Visibility::Community,
        Visibility::Public,
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Visibility::Private => "private",
            Visibility::Shared => "shared",
            Visibility::Community => "community",
            Visibility::Public => "public",
        }
    }
}

/// How the bytes get there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Method {
    /// Straight into the store.
    Upload,
    /// Into a staging area; the service then imports them, and may convert them.
    GlanceDirect,
    /// The service fetches them from this URL.
    WebDownload(String),
}

impl Method {
    /// Its name, as the service has it.
    pub fn name(&self) -> &'static str {
        match self {
            Method::Upload => "upload",
            Method::GlanceDirect => "glance-direct",
            Method::WebDownload(_) => "web-download",
        }
    }
}

/// An image as the service knows it.
#[derive(Debug, Clone)]
pub(super) struct Image {
    pub id: String,
    pub status: String,
    pub owner: Option<String>,
    pub created: String,
    pub protected: bool,
    pub disk_format: Option<String>,
    pub size: Option<u64>,
    pub md5: Option<String>,
    /// Algorithm and value.
    pub hash: Option<(String, String)>,
    pub message: String,
}

impl Image {
    fn read(value: &Value, action: &'static str) -> Result<Image, Error> {
        let text = |key: &str| value[key].as_str().map(str::to_owned);
        let missing = |key: &str| Error::Answer {
            action,
            service: GLANCE.0,
            what: format!("an image without `{key}`"),
        };
        let id = text("id").filter(|id| {
            let plain = |char: char| char.is_ascii_alphanumeric() || char == '-';
            !id.is_empty() && id.chars().all(plain)
        });
        Ok(Image {
            id: id.ok_or_else(|| missing("id"))?,
            status: text("status").ok_or_else(|| missing("status"))?,
            owner: text("owner"),
            created: text("created_at").unwrap_or_default(),
            protected: value["protected"] == true,
            disk_format: text("disk_format"),
            size: value["size"].as_u64(),
            md5: text("checksum"),
            hash: text("os_hash_algo").zip(text("os_hash_value")),
            message: text("os_glance_failed_import").unwrap_or_default(),
        })
    }
}

/// A session with the image service.
#[derive(Debug)]
pub(super) struct Glance<'a> {
    http: &'a Http,
    cloud: &'a Cloud,
    access: Access,
}

impl<'a> Glance<'a> {
    /// Signs in.
    pub fn open(http: &'a Http, cloud: &'a Cloud) -> Result<Glance<'a>, Error> {
        Ok(Glance {
            http,
            cloud,
            access: keystone::sign_in(http, cloud)?,
        })
    }

    /// The project that images belong to.
    pub fn project(&self) -> Option<&str> {
        self.access.project.as_deref()
    }

    fn url(&self, path: &str) -> String {
        format!("{}/v2/{path}", self.access.image_url)
    }

    /// Calls the service; if the token has expired meanwhile, with a new one.
    fn call(
        &mut self,
        action: &'static str,
        method: &Verb,
        path: &str,
        body: Option<(&'static str, &Value)>,
    ) -> Result<Answer, Error> {
        let url = self.url(path);
        let ask = |access: &Access| {
            let call = Call {
                action,
                service: GLANCE,
                method: method.clone(),
                url: &url,
                token: access.token.as_deref(),
                body: body.map(|(kind, body)| (kind, body.to_string().into_bytes())),
            };
            // What makes something new must not be asked for twice.
            if *method == Verb::POST {
                self.http.call(&call)
            } else {
                self.http.repeat(&call)
            }
        };
        match ask(&self.access) {
            Err(Error::Refused { status: 401, .. }) if self.access.token.is_some() => {
                let access = keystone::sign_in(self.http, self.cloud)?;
                let result = ask(&access);
                self.access = access;
                result
            }
            result => result,
        }
    }

    /// Images of a name that belong to the own project; newest first.
    pub fn named(&mut self, name: &str) -> Result<Vec<Image>, Error> {
        const ACTION: &str = "look for images";
        let mut path = format!("images?sort=created_at:desc&name={}", encoded(name));
        if let Some(project) = self.project() {
            path.push_str(&format!("&owner={}", encoded(project)));
        }
        let mut images: Vec<Image> = Vec::new();
        for _ in 0..MAX_PAGES {
            let answer = self.call(ACTION, &Verb::GET, &path, None)?;
            let json = answer.json(ACTION, GLANCE)?;
            for image in json["images"].as_array().into_iter().flatten() {
                // Services may ignore what they are asked for.
                if image["name"] == name {
                    images.push(Image::read(image, ACTION)?);
                }
            }
            match json["next"]
                .as_str()
                .and_then(|next| next.strip_prefix("/v2/"))
            {
                Some(next) => path = next.to_owned(),
                None => break,
            }
        }
        let project = self.access.project.clone();
        images.retain(|image| project.is_none() || image.owner == project);
        images.sort_by(|a, b| (&b.created, &b.id).cmp(&(&a.created, &a.id)));
        Ok(images)
    }

    /// Makes a record without bytes. Also says which ways of import there are.
    pub fn create(&mut self, record: &Value) -> Result<(Image, Vec<String>), Error> {
        const ACTION: &str = "create the image";
        let body = Some(("application/json", record));
        let answer = self.call(ACTION, &Verb::POST, "images", body)?;
        let methods = answer
            .header("openstack-image-import-methods")
            .unwrap_or_default()
            .split(',')
            .map(|method| method.trim().to_owned())
            .filter(|method| !method.is_empty())
            .collect();
        Ok((Image::read(&answer.json(ACTION, GLANCE)?, ACTION)?, methods))
    }

    /// An image as it is now.
    pub fn get(&mut self, id: &str) -> Result<Image, Error> {
        const ACTION: &str = "look at the image";
        let answer = self.call(ACTION, &Verb::GET, &format!("images/{id}"), None)?;
        Image::read(&answer.json(ACTION, GLANCE)?, ACTION)
    }

    /// Sends the bytes of an image, into the store or the staging area, until `stop`.
    pub fn send(
        &self,
        id: &str,
        staged: bool,
        length: u64,
        reader: &mut dyn std::io::Read,
        stop: &std::sync::atomic::AtomicBool,
    ) -> Result<(), Error> {
        let place = if staged { "stage" } else { "file" };
        let url = self.url(&format!("images/{id}/{place}"));
        let call = Call {
            action: "upload the image",
            service: GLANCE,
            method: Verb::PUT,
            url: &url,
            token: self.access.token.as_deref(),
            body: None,
        };
        self.http.send(&call, length, reader, stop).map(|_| ())
    }

    /// Signs in anew, before a long upload is tried again.
    pub fn refresh(&mut self) -> Result<(), Error> {
        self.access = keystone::sign_in(self.http, self.cloud)?;
        Ok(())
    }

    /// Starts an import.
    pub fn import(&mut self, id: &str, method: &Method) -> Result<(), Error> {
        let mut how = json!({"name": method.name()});
        if let Method::WebDownload(url) = method {
            how["uri"] = json!(url);
        }
        let body = json!({"method": how});
        let path = format!("images/{id}/import");
        let body = Some(("application/json", &body));
        self.call("import the image", &Verb::POST, &path, body)?;
        Ok(())
    }

    /// Removes an image; one that is gone already is no failure.
    pub fn delete(&mut self, id: &str) -> Result<(), Error> {
        let path = format!("images/{id}");
        match self.call("delete the image", &Verb::DELETE, &path, None) {
            Ok(_) | Err(Error::Refused { status: 404, .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// Text within a query.
fn encoded(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}
