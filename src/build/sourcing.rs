//! The environment of a phase's hooks: for every phase the files of `environment.d` are
//! sourced once by a shell in the place where the hooks will run; what it exports is the
//! environment of each hook.

use std::ffi::{OsStr, OsString};
use std::path::Path;

use crate::element::hooks::ENVIRONMENT;
use crate::helpers::environment::HANDED;
use crate::helpers::run_parts;
use crate::rootfs::beneath::Root;
use crate::sandbox::command::Program;
use crate::sandbox::handed::Handed;

use super::engine::Engine;
use super::environment::{self, HOOKS_INSIDE, Variables};
use super::failure::Failure;
use super::hook::Place;
use super::phases::Phase;
use super::record;

/// Sources every environment file and writes what is exported then.
///
/// `$1` and `$2` are the program that writes and its file, the rest are the files to
/// source, which see no arguments. Upstream traces these files always; here `-x` asks
/// for it.
const SOURCE_ENVIRONMENT: &str = r#"
set -eu -o pipefail
kiln_environment=("$1" "$2")
kiln_sources=("${@:3}")
set --
for kiln_source in "${kiln_sources[@]}"; do
    printf '%s' "${kiln_source##*/}" 2>/dev/null >"${kiln_environment[1]}.source" || :
    if [ "${DIB_DEBUG_TRACE:-0}" -gt 0 ]; then
        echo "sourcing ${kiln_source}"
        set -x
    fi
    source "${kiln_source}"
    { set +x; } 2>/dev/null
    set -eu -o pipefail
done
exec "${kiln_environment[@]}"
"#;

/// What is added to the name of a phase's environment for the file that is sourced.
const SOURCE: &str = ".source";

/// What `environment.d` makes of a phase's environment.
pub(super) struct Sourced {
    pub(super) variables: Variables,
    /// What the files set besides: umask, working directory, limits.
    pub(super) handed: Option<Handed>,
}

impl Engine<'_> {
    /// The environment of a phase's hooks before `environment.d`.
    pub(super) fn base_environment(&self, phase: Phase) -> Variables {
        let mut variables = if phase.inside {
            environment::inside(&self.variables)
        } else {
            environment::outside(&self.variables, &self.dirs.hooks, &self.dirs.scratch)
        };
        if phase.target_root {
            variables.insert("TARGET_ROOT".into(), self.dirs.target.clone().into());
        }
        variables
    }

    /// The environment of a phase's hooks, `environment.d` included.
    pub(super) fn phase_environment(
        &mut self,
        phase: Phase,
        place: &Place,
    ) -> Result<Sourced, Failure> {
        let base = self.base_environment(phase);
        let list = |lookup: run_parts::Lookup<'_>, directory: &Path| {
            let files = run_parts::environment(lookup, &directory.join(phase.directory()));
            files.map_err(|error| Failure::from_error(&error))
        };
        // As for hooks, links lead where they lead in the target.
        let files = if phase.inside {
            let root = Root::open(&self.dirs.target)
                .map_err(Failure::io("listing `environment.d` in the target"))?;
            list(run_parts::Lookup::Root(&root), Path::new(HOOKS_INSIDE))?
        } else {
            list(run_parts::Lookup::Here, &self.dirs.hooks)?
        };
        if files.is_empty() {
            return Ok(Sourced {
                variables: base,
                handed: None,
            });
        }
        let name = format!("environment.{}", phase.name);
        let mut arguments: Vec<OsString> = ["/bin/bash", "-c", SOURCE_ENVIRONMENT, "environment.d"]
            .map(OsString::from)
            .to_vec();
        // By its path: the files may write PATH anew.
        let writer = environment::helper(&place.hooks, phase.inside, "kiln-environment");
        arguments.push(writer.into());
        arguments.push(place.hooks.join(".kiln/record").join(&name).into());
        let directory = place.hooks.join(ENVIRONMENT);
        let names: Vec<&OsStr> = files.iter().filter_map(|file| file.file_name()).collect();
        arguments.extend(names.iter().map(|name| directory.join(name).into()));
        let program = Program {
            arguments,
            environment: base.into_iter().collect(),
            inside: place.inside.clone(),
            directory: place.directory.clone(),
            handed: None,
            filter: place.filter.clone(),
            keep_open: None,
            watch: Some(self.watch.clone()),
        };
        let status = self
            .run_program(&program)
            .map_err(|error| self.cannot_start("/bin/bash", &error, phase.inside))?;
        let source = || {
            let note = record::read(self.hooks_of(phase.inside), &format!("{name}{SOURCE}"));
            let source = self.sourced(&names, note.ok().flatten());
            format!("{source} for phase `{}`", phase.directory())
        };
        if status != 0 {
            return Err(Failure::status(
                format!("sourcing {} failed with exit status {status}", source()),
                status,
            )
            .hint("one shell sources all files of `environment.d`, with `set -eu -o pipefail`: `-x` traces it"));
        }
        let block = record::read(self.hooks_of(phase.inside), &name)?.ok_or_else(|| {
            Failure::new(format!("the shell that sources {} ended there", source())).hint(
                "one shell sources all files of `environment.d`: let the file neither `exit` nor \
                 `exec` another program",
            )
        })?;
        let mut variables = environment::parse(&block);
        environment::keep_helpers(&mut variables, &place.hooks, phase.inside);
        let handed = record::read(self.hooks_of(phase.inside), &format!("{name}{HANDED}"))?;
        Ok(Sourced {
            variables,
            handed: handed.map(|note| Handed::parse(&note)),
        })
    }

    /// The file of `environment.d` that was sourced last, for a message. Files write what
    /// they like to the note of it.
    fn sourced(&self, names: &[&OsStr], note: Option<Vec<u8>>) -> String {
        let directory = ENVIRONMENT;
        let noted = |name: &&&OsStr| Some(name.as_encoded_bytes()) == note.as_deref();
        match names.iter().find(noted).and_then(|name| name.to_str()) {
            Some(name) => {
                let path = format!("{directory}/{name}");
                format!("`{path}` of element `{}`", self.element_of(&path))
            }
            None => format!("`{directory}`"),
        }
    }
}
