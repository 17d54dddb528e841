//! The list of elements in the forms that hooks read it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::{Element, ElementSet};

/// Where each element's directory is for those who look it up by path.
pub type Paths = BTreeMap<String, PathBuf>;

/// The paths of all elements; `embedded` says where an embedded one was written.
pub fn paths(set: &ElementSet, embedded: impl Fn(&Element) -> PathBuf) -> Paths {
    set.elements()
        .map(|element| {
            let path = match &element.origin {
                super::Origin::Directory(path) => path.clone(),
                super::Origin::Embedded(_) => embedded(element),
            };
            (element.name.clone(), path)
        })
        .collect()
}

/// `IMAGE_ELEMENT`: the names, separated by blanks, in the order of the set.
pub fn image_element(set: &ElementSet) -> String {
    set.names().join(" ")
}

/// `IMAGE_ELEMENT_YAML`: a block-style map from name to path, sorted by name.
pub fn image_element_yaml(paths: &Paths) -> String {
    paths.iter().fold(String::new(), |mut text, (name, path)| {
        text.push_str(&format!(
            "{}: {}\n",
            scalar(name),
            scalar(&path.to_string_lossy())
        ));
        text
    })
}

/// What the shell function `get_image_element_array` prints: the body of an
/// associative array in bash, `[name]=path [name]=path `.
pub fn image_element_array(paths: &Paths) -> String {
    paths.iter().fold(String::new(), |mut text, (name, path)| {
        text.push_str(&format!(
            "[{}]={} ",
            word(name),
            word(&path.to_string_lossy())
        ));
        text
    })
}

/// The function as the environment carries it: name and value of a variable
/// that makes bash define `get_image_element_array`.
pub fn image_element_function(paths: &Paths) -> (String, String) {
    let body = format!(
        "() {{ printf '%s\\n' {}\n}}",
        quote(&image_element_array(paths))
    );
    ("BASH_FUNC_get_image_element_array%%".to_owned(), body)
}

/// What `element-info --env` prints, for `eval` in bash.
pub fn env_script(set: &ElementSet, paths: &Paths) -> String {
    format!(
        "export IMAGE_ELEMENT={}\nexport IMAGE_ELEMENT_YAML={}\nfunction get_image_element_array {{\n    printf '%s\\n' {}\n}}\nexport -f get_image_element_array\n",
        always_quote(&image_element(set)),
        always_quote(&image_element_yaml(paths)),
        quote(&image_element_array(paths)),
    )
}

/// Quotes a string for a shell unless it needs none.
pub fn quote(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-+=:,./@%".contains(&byte);
    if !text.is_empty() && text.bytes().all(plain) {
        text.to_owned()
    } else {
        always_quote(text)
    }
}

fn always_quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// A word of the array's body: the shell that evaluates it splits and unquotes.
fn word(text: &str) -> String {
    quote(text)
}

/// A YAML scalar: plain where that is safe, quoted otherwise.
fn scalar(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-+./@".contains(&byte);
    let starts_well = text
        .bytes()
        .next()
        .is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'/');
    let reserved = ["true", "false", "yes", "no", "on", "off", "null", "y", "n"];
    if starts_well
        && text.bytes().all(plain)
        && !reserved.contains(&text.to_ascii_lowercase().as_str())
    {
        text.to_owned()
    } else if text.chars().any(|c| c.is_control()) {
        // JSON strings are YAML strings, escapes included.
        serde_json::Value::String(text.to_owned()).to_string()
    } else {
        format!("'{}'", text.replace('\'', "''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::element::{Library, Options, resolve};
    use std::fs;
    use std::process::Command;

    fn fixture() -> (tempfile::TempDir, ElementSet) {
        let dir = tempfile::tempdir().unwrap();
        let library_dir = dir.path().join("it's a lib");
        for name in ["os", "base"] {
            fs::create_dir_all(library_dir.join(name)).unwrap();
        }
        fs::write(library_dir.join("os/element-provides"), "operating-system").unwrap();
        let library = Library::with_directories(&[library_dir]).unwrap();
        let set = resolve(&library, &["os".into()], &Options::default()).unwrap();
        (dir, set)
    }

    #[test]
    fn yaml_is_sorted_by_name() {
        let paths = Paths::from([
            ("b".into(), "/x/b".into()),
            ("a".into(), "/x y/a".into()),
            ("yes".into(), "/n".into()),
        ]);
        assert_eq!(
            image_element_yaml(&paths),
            "a: '/x y/a'\nb: /x/b\n'yes': /n\n"
        );
        let back: BTreeMap<String, String> =
            serde_saphyr::from_str(&image_element_yaml(&paths)).unwrap();
        assert_eq!(back["a"], "/x y/a");
    }

    #[test]
    fn bash_understands_the_environment_even_with_odd_paths() {
        let (_dir, set) = fixture();
        let paths = paths(&set, |element| element.name.clone().into());
        let script = env_script(&set, &paths)
            + "eval declare -A a=\"($(get_image_element_array))\"; echo \"$IMAGE_ELEMENT|${a[os]}|${a[base]}\"";
        let Ok(output) = Command::new("bash").arg("-c").arg(&script).output() else {
            println!("SKIP: no bash on this machine");
            return;
        };
        let text = String::from_utf8(output.stdout).unwrap();
        assert_eq!(
            text,
            format!(
                "base os|{}|{}\n",
                paths["os"].display(),
                paths["base"].display()
            )
        );
        let (name, body) = image_element_function(&paths);
        let output = Command::new("bash")
            .env(name, body)
            .args(["-c", "get_image_element_array"])
            .output()
            .unwrap();
        assert_eq!(
            String::from_utf8(output.stdout).unwrap().trim_end(),
            image_element_array(&paths).trim_end()
        );
    }
}
