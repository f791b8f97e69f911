//! What each program says of a command's words, with the network and the servers out of reach: it gets as far as that.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use e2e::{read, root};

use crate::commands::NOT_RUN;
use crate::{curl, sources};

/// Where nothing listens.
const NOWHERE: &str = "127.0.0.1:1";

/// Runs a program and gives its exit status and what it says. Nothing if it is not here: with STRICT=1, as in
/// .ci/run, that is a fault.
fn run(folder: &Path, program: &str, arguments: &[&str]) -> Option<(i32, String)> {
    let output = Command::new(program)
        .args(arguments)
        .current_dir(folder)
        .env("KUBECONFIG", "/dev/null")
        .env("DOCKER_HOST", format!("tcp://{NOWHERE}"))
        .stdin(Stdio::from(
            fs::File::open(folder.join("envoy.yaml")).unwrap(),
        ))
        .output();
    let Ok(output) = output else {
        assert!(
            std::env::var("STRICT").as_deref() != Ok("1"),
            "there is no {program}"
        );
        eprintln!("SKIPPED, there is no {program}: {arguments:?}");
        return None;
    };
    let text = [output.stdout, output.stderr].concat();
    Some((
        output.status.code().unwrap_or(-1),
        String::from_utf8_lossy(&text).into_owned(),
    ))
}

/// It is taken if it succeeds, or gets as far as its server. (docker-compose succeeds with an option that it does not
/// know, and says how it is used.)
fn takes(folder: &Path, program: &str, arguments: &[&str]) -> Result<(), String> {
    match run(folder, program, arguments) {
        None => Ok(()),
        Some((0, _)) if !program.starts_with("docker") => Ok(()),
        Some((7, _)) if program == "curl" => Ok(()),
        Some((_, text))
            if text.contains("refused") || text.contains("Cannot connect to the Docker daemon") =>
        {
            Ok(())
        }
        Some((status, text)) => Err(format!("exit status {status}: {text}")),
    }
}

/// Whether the program takes these words, and what it names is there.
pub fn check(folder: &Path, page: &str, words: &[&str]) -> Result<(), String> {
    let arguments = &words[1..];
    match words[0] {
        "make" => make(folder, arguments),
        "cargo" => cargo(folder, arguments),
        "curl" => {
            let nowhere = ["--connect-to", &format!("::{NOWHERE}")];
            takes(folder, "curl", &[arguments, &nowhere].concat())?;
            curl::is_served(page, arguments)
        }
        "kubectl" => takes(
            folder,
            "kubectl",
            &[arguments, &["--server", &format!("http://{NOWHERE}")]].concat(),
        ),
        "docker" if arguments[0] == "compose" => compose(folder, &arguments[1..]),
        "docker" if arguments[0] == "build" => build(folder, arguments),
        "sha256sum" if arguments.len() == 1 => {
            takes(folder, "sha256sum", &[arguments[0], "SHA256SUMS"])
        }
        "docker" | "diff" | "sha256sum" => takes(folder, words[0], arguments),
        // The real one, if it and the filter are built: `make test` does so before.
        "envoy" => envoy(folder, arguments),
        "healthz-doctor" | "./healthz-doctor" => {
            let manifest = root().join("Cargo.toml");
            let doctor = [
                "run",
                "--quiet",
                "--locked",
                "--package",
                "healthz-doctor",
                "--manifest-path",
            ];
            takes(
                folder,
                "cargo",
                &[&doctor[..], &[manifest.to_str().unwrap(), "--"], arguments].concat(),
            )
        }
        // In what a real Envoy said.
        "grep" => {
            let clusters = root().join("src/testdata/clusters-envoy-1.40.0.txt");
            takes(
                folder,
                "grep",
                &[arguments, &[clusters.to_str().unwrap()]].concat(),
            )
        }
        "kill" => takes(
            folder,
            "bash",
            &[
                "-c",
                &format!("kill -l {}", arguments[0].trim_start_matches('-')),
            ],
        ),
        "sleep" => arguments[0]
            .parse::<f64>()
            .map(|_| ())
            .map_err(|error| error.to_string()),
        script if root().join(script).is_file() => takes(
            folder,
            "bash",
            &["-n", root().join(script).to_str().unwrap()],
        ),
        program if NOT_RUN.iter().any(|(known, _)| *known == program) => Ok(()),
        program => Err(format!("no program checks {program}")),
    }
}

/// The real one, which validates README's configuration with the filter that is built.
fn envoy(folder: &Path, arguments: &[&str]) -> Result<(), String> {
    let envoy = e2e::envoy::binary();
    let mut words = arguments.to_vec();
    for (option, value) in [("--mode", "validate"), ("-c", "envoy.yaml")] {
        if !words.contains(&option) {
            words.extend([option, value]);
        }
    }
    takes(folder, envoy.to_str().unwrap(), &words)
}

/// `make -n`, whose shell does nothing; a variable is one of the Makefile's, and what it makes of our own programs'
/// arguments they take.
fn make(folder: &Path, arguments: &[&str]) -> Result<(), String> {
    let makefile = read("Makefile");
    for (name, value) in arguments.iter().filter_map(|word| word.split_once('=')) {
        if !makefile.contains(&format!("$({name})")) {
            return Err(format!("the Makefile has no {name}"));
        }
        if name == "ENVOY_VERSION"
            && !sources::makefile("MATRIX")
                .split(' ')
                .any(|known| known == value)
        {
            return Err(format!("{value} is not in MATRIX"));
        }
    }
    let root = root().to_str().unwrap();
    let dry = ["-n", "--no-print-directory", "SHELL=/bin/true", "-C", root];
    let (status, text) = run(folder, "make", &[&dry, arguments].concat()).unwrap();
    if status != 0 {
        return Err(text);
    }
    let ours = text
        .lines()
        .filter_map(|line| line.strip_prefix("target/debug/"));
    for line in ours {
        let words: Vec<&str> = line.split_whitespace().collect();
        if words.len() == 1 {
            continue; // nothing to take, and rehearsal would begin
        }
        let program = match words[0] {
            "demo" => env!("CARGO_BIN_EXE_demo"),
            "bench" => env!("CARGO_BIN_EXE_bench"),
            "soak" => env!("CARGO_BIN_EXE_soak"),
            other => return Err(format!("no program checks {other}")),
        };
        takes(folder, program, &[&words[1..], &["--help"]].concat())?;
    }
    Ok(())
}

/// Cargo finds the packages and their tests, and builds nothing; the test's function is in its file.
fn cargo(folder: &Path, arguments: &[&str]) -> Result<(), String> {
    let (ours, tests) = match arguments.iter().position(|word| *word == "--") {
        Some(at) => (&arguments[..at], &arguments[at + 1..]),
        None => (arguments, &[][..]),
    };
    let manifest = root().join("Cargo.toml");
    let graph = [
        "--manifest-path",
        manifest.to_str().unwrap(),
        "--locked",
        "--unit-graph",
        "-Zunstable-options",
    ];
    let ours = [&["RUSTC_BOOTSTRAP=1", "cargo"], ours, &graph].concat();
    takes(folder, "env", &ours)?;
    for test in tests {
        let (file, function) = test.split_once("::").ok_or("a test's name has ::")?;
        let function = function.rsplit("::").next().unwrap();
        if !read(&format!("e2e/tests/all/{file}.rs")).contains(&format!("fn {function}(")) {
            return Err(format!("there is no test {test}"));
        }
    }
    Ok(())
}

/// The services, profiles and files that it names are there, besides.
fn compose(folder: &Path, arguments: &[&str]) -> Result<(), String> {
    let file = read("docker-compose.yml");
    for pair in arguments.windows(2) {
        let is_there = match pair[0] {
            "--profile" => file.contains(&format!("profiles: [{}]", pair[1])),
            "stop" | "start" | "USR1" => file.contains(&format!("\n  {}:", pair[1])),
            _ => true,
        };
        if !is_there {
            return Err(format!("docker-compose.yml has no {}", pair[1]));
        }
    }
    match run(folder, "docker", &["compose", "version"]) {
        Some((0, _)) => takes(folder, "docker", &[&["compose"], arguments].concat()),
        _ => takes(folder, "docker-compose", arguments),
    }
}

/// The stages and arguments of its Dockerfile, besides. `--output` needs BuildKit, which is no package of Debian's:
/// `make test-compose` builds the same stage without.
fn build(folder: &Path, arguments: &[&str]) -> Result<(), String> {
    let value = |option| {
        arguments
            .windows(2)
            .find(|pair| pair[0] == option)
            .map(|pair| pair[1])
    };
    let file = read(value("-f").unwrap_or("Dockerfile"));
    let stage = value("--target").is_none_or(|stage| file.contains(&format!(" AS {stage}\n")));
    let argument = value("--build-arg")
        .is_none_or(|pair| file.contains(&format!("ARG {}=", pair.split('=').next().unwrap())));
    if !(stage && argument) {
        return Err("not of that Dockerfile".to_owned());
    }
    let output = value("--output").map_or(vec![], |folder| vec!["--output", folder]);
    let rest = arguments.join(" ").replace(&output.join(" "), "");
    takes(
        folder,
        "docker",
        &rest.split_whitespace().collect::<Vec<_>>(),
    )
}
