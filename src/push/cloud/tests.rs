use std::collections::HashMap;
use std::fs;

use super::*;

/// A home with files, and variables.
struct Place {
    directory: tempfile::TempDir,
    variables: HashMap<String, String>,
}

impl Place {
    fn new(files: &[(&str, &str)], variables: &[(&str, &str)]) -> Place {
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = directory.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        fs::create_dir_all(directory.path().join("here")).unwrap();
        let home = directory.path().join("home").display().to_string();
        let variables = variables
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .chain([("HOME".to_owned(), home)])
            .collect();
        Place {
            directory,
            variables,
        }
    }

    fn find(&self, cloud: Option<&str>) -> Result<Cloud, Error> {
        let here = self.directory.path().join("here");
        let etc = self.directory.path().join("etc");
        find(&Lookup {
            variable: &|name| self.variables.get(name).cloned(),
            current_dir: &here,
            system_dir: &etc,
            cloud,
            overrides: Vec::new(),
        })
    }
}

const CLOUDS: &str = "
clouds:
  one:
    region_name: north
    interface: internalURL
    cacert: ~/ca.pem
    auth:
      auth_url: https://one.example:5000/v3
      username: ann
      password: not-this
      project-name: images
      user_domain_name: people
      project_domain_name: work
  two:
    auth_type: v3applicationcredential
    verify: false
    regions: [{name: south}, west]
    auth:
      auth_url: https://two.example/identity
      application_credential_id: 0123
      application_credential_secret: 0777
";

#[test]
fn a_cloud_is_read_with_its_secrets_from_beside() {
    let secure = "clouds: {one: {auth: {password: 's3cret'}}}";
    let place = Place::new(
        &[
            ("home/.config/openstack/clouds.yaml", CLOUDS),
            ("home/.config/openstack/secure.yaml", secure),
        ],
        &[],
    );
    let one = place.find(Some("one")).unwrap();
    let work = |name: &str| Domain::Name(name.to_owned());
    assert_eq!(
        one,
        Cloud {
            name: "one".to_owned(),
            auth: Auth::Password {
                url: "https://one.example:5000/v3".to_owned(),
                user: Who::Name("ann".to_owned(), work("people")),
                password: "s3cret".to_owned(),
                scope: Scope::Project(Who::Name("images".to_owned(), work("work"))),
            },
            region: Some("north".to_owned()),
            interface: "internal".to_owned(),
            cacert: Some(place.directory.path().join("home/ca.pem")),
            insecure: false,
            image_endpoint: None,
        }
    );
    let two = place.find(Some("two")).unwrap();
    assert_eq!(two.region.as_deref(), Some("south"));
    assert!(two.insecure);
    // Numbers stay what was written.
    assert!(matches!(
        two.auth,
        Auth::Application { id: Some(id), secret, .. } if id == "0123" && secret == "0777"
    ));
}

#[test]
fn the_first_file_counts_and_a_variable_names_another() {
    let cloud = |url: &str| {
        format!(
            "clouds: {{c: {{auth: {{auth_url: '{url}', username: u, password: p, user_id: x}}}}}}"
        )
    };
    let files = [
        ("here/clouds.yaml", cloud("http://here")),
        ("home/.config/openstack/clouds.yml", cloud("http://home")),
        ("etc/clouds.json", cloud("http://etc")),
        ("special/x.yaml", cloud("http://special")),
    ];
    let url = |files: &[(&str, &str)], variables: &[(&str, &str)]| {
        // The only cloud is the one.
        match Place::new(files, variables).find(None).unwrap().auth {
            Auth::Password { url, .. } => url,
            other => panic!("{other:?}"),
        }
    };
    let files: Vec<(&str, &str)> = files
        .iter()
        .map(|(name, text)| (*name, text.as_str()))
        .collect();
    assert_eq!(url(&files, &[]), "http://here");
    assert_eq!(url(&files[1..], &[]), "http://home");
    assert_eq!(url(&files[2..], &[]), "http://etc");
    let variable = [("OS_CLIENT_CONFIG_FILE", "../special/x.yaml")];
    assert_eq!(url(&files, &variable), "http://special");
}

#[test]
fn variables_describe_a_cloud_and_a_named_one_comes_first() {
    let variables = [
        ("OS_AUTH_URL", "https://env.example/v3"),
        ("OS_USERNAME", "bob"),
        ("OS_PASSWORD", "pw with spaces"),
        ("OS_PROJECT_ID", "p1"),
        ("OS_REGION_NAME", "east"),
        ("OS_ENDPOINT_TYPE", "adminURL"),
    ];
    let files = [("home/.config/openstack/clouds.yaml", CLOUDS)];
    let place = Place::new(&files, &variables);
    let cloud = place.find(None).unwrap();
    assert_eq!(cloud.name, "envvars");
    assert_eq!(cloud.interface, "admin");
    assert_eq!(cloud.region.as_deref(), Some("east"));
    assert!(matches!(
        cloud.auth,
        Auth::Password { user: Who::Name(name, Domain::Id(domain)), scope: Scope::Project(Who::Id(_)), .. }
            if name == "bob" && domain == "default"
    ));
    assert_eq!(
        place.find(Some("one")).unwrap().region.as_deref(),
        Some("north")
    );
    let place = Place::new(&files, &[("OS_CLOUD", "two")]);
    assert_eq!(place.find(None).unwrap().name, "two");
    let token = [
        ("OS_AUTH_URL", "https://env.example/v3"),
        ("OS_TOKEN", "t"),
        ("OS_SYSTEM_SCOPE", "all"),
    ];
    let cloud = Place::new(&[], &token).find(None).unwrap();
    assert!(matches!(
        cloud.auth,
        Auth::Token {
            scope: Scope::System,
            ..
        }
    ));
}

#[test]
fn profiles_lie_beneath_their_clouds() {
    let files = [
        (
            "here/clouds.yaml",
            "clouds: {c: {profile: vendor, region_name: mine, auth: {username: u, password: p}}}",
        ),
        (
            "here/clouds-public.yaml",
            "public-clouds: {vendor: {region_name: theirs, interface: internal, \
             auth: {auth_url: 'https://vendor.example'}}}",
        ),
    ];
    let cloud = Place::new(&files, &[]).find(None).unwrap();
    assert_eq!(cloud.region.as_deref(), Some("mine"));
    assert_eq!(cloud.interface, "internal");
    let error = Place::new(&files[..1], &[]).find(None).unwrap_err();
    assert_eq!(
        error.to_string(),
        "cloud `c` uses the profile `vendor`, which is not known"
    );
}

#[test]
fn what_is_missing_is_said_and_secrets_are_not() {
    for (files, variables, message, hint) in [
        (
            &[][..],
            &[][..],
            "nothing says which cloud to send to",
            "write `clouds.yaml`",
        ),
        (
            &[("here/clouds.yaml", CLOUDS)],
            &[],
            "nothing says which cloud to send to",
            "name one with `--os-cloud` or `OS_CLOUD`: one, two",
        ),
        (
            &[("here/clouds.yaml", CLOUDS)],
            &[("OS_CLOUD", "three")],
            "no cloud is named `three`",
            "has one, two",
        ),
        (
            &[],
            &[("OS_CLOUD", "three")],
            "no cloud is named `three`",
            "no `clouds.yaml` was found",
        ),
        (
            &[],
            &[("OS_AUTH_URL", "https://x"), ("OS_USERNAME", "u")],
            "cloud `envvars` has no `password`",
            "`OS_PASSWORD`",
        ),
        (
            &[],
            &[("OS_AUTH_URL", "https://x"), ("OS_AUTH_TYPE", "v3kerberos")],
            "cloud `envvars` has the authentication type `v3kerberos`, which kiln does not know",
            "v3applicationcredential",
        ),
        (
            &[(
                "here/clouds.yaml",
                "clouds:\n  c:\n    auth: {password: hunter2\n",
            )],
            &[],
            "is not valid YAML",
            "a mapping `clouds`",
        ),
    ] {
        let error = Place::new(files, variables).find(None).unwrap_err();
        let text = error.to_string();
        assert!(text.contains(message), "{text}");
        assert!(!text.contains("hunter2"), "{text}");
        let hints = error.hints().join("\n");
        assert!(hints.contains(hint), "{message}: {hints}");
    }
}

#[test]
fn a_relative_directory_of_xdg_is_ignored() {
    let mut place = Place::new(&[("conf/openstack/clouds.yaml", CLOUDS)], &[]);
    let conf = place.directory.path().join("conf");
    let here = std::env::current_dir().unwrap();
    let up = "../".repeat(here.components().count() - 1);
    let relative = format!("{up}{}", conf.strip_prefix("/").unwrap().display());
    for (directory, found) in [(conf.display().to_string(), true), (relative, false)] {
        assert!(std::path::Path::new(&directory).is_dir());
        let variables = &mut place.variables;
        variables.insert("XDG_CONFIG_HOME".to_owned(), directory.clone());
        assert_eq!(place.find(Some("two")).is_ok(), found, "{directory}");
    }
}
