//! What the documents show works: configs load, commands are understood, links lead somewhere.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use cupbearer::config;

use crate::binary::{Home, Town};

struct Document {
    path: PathBuf,
    text: String,
}

/// A fenced block, without what the list around it indents it by.
struct Block {
    language: String,
    line: usize,
    text: String,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn documents() -> Vec<Document> {
    let mut paths = vec![root().join("README.md")];
    let docs = fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().path());
    paths.extend(docs.filter(|path| path.extension().is_some_and(|extension| extension == "md")));
    paths.sort();
    let read = |path: PathBuf| Document { text: fs::read_to_string(&path).unwrap(), path };
    let documents: Vec<_> = paths.into_iter().map(read).collect();
    assert!(documents.len() > 1, "only {} documents were found", documents.len());
    documents
}

impl Document {
    fn name(&self) -> String {
        self.path.strip_prefix(root()).unwrap().display().to_string()
    }

    fn blocks(&self, language: &str) -> Vec<Block> {
        let mut blocks = Vec::new();
        let mut open: Option<(usize, Block)> = None;
        for (number, line) in self.text.lines().enumerate() {
            let trimmed = line.trim_start();
            match (&mut open, trimmed.strip_prefix("```")) {
                (None, Some(language)) => {
                    let block = Block { language: language.trim().to_owned(), line: number + 2, text: String::new() };
                    open = Some((line.len() - trimmed.len(), block));
                }
                (Some(_), Some(_)) => blocks.extend(open.take().map(|(_, block)| block)),
                (Some((indent, block)), None) => {
                    block.text.push_str(line.get(*indent..).unwrap_or(trimmed));
                    block.text.push('\n');
                }
                (None, None) => {}
            }
        }
        assert!(open.is_none(), "{}: a block isn't closed", self.name());
        blocks.retain(|block| block.language == language);
        blocks
    }
}

/// A config that has routes is whole; anything else is a part of the one before it.
fn is_whole(block: &Block) -> bool {
    block.text.contains("[[routes]]")
}

#[tokio::test]
async fn every_config_shown_loads() {
    let town = Town::new().await;
    let mut found = 0;
    for document in documents() {
        let blocks = document.blocks("toml");
        let mut last_whole = blocks.iter().find(|block| is_whole(block)).map(|block| block.text.clone());
        for block in &blocks {
            found += 1;
            let text = if is_whole(block) {
                last_whole = Some(block.text.clone());
                block.text.clone()
            } else {
                format!("{}\n{}", last_whole.clone().unwrap_or_default(), block.text)
            };
            let at = format!("{}:{}", document.name(), block.line);
            let settings = load(&town, &text).unwrap_or_else(|problems| panic!("{at}\n{problems}"));
            assert!(settings.warnings.is_empty(), "{at}\n{}", settings.warnings.render_as_warnings(false));
        }
    }
    assert!(found >= 3, "only {found} configs were found");
}

/// Every variable has a value, and every file that is named is there.
fn load(town: &Town, text: &str) -> Result<config::Settings, config::Problems> {
    let set = |name: &str| Some(format!("a value for {name}").into());
    config::parse(&with_files(town, text), &town.home.work("proxy.toml"), &set)
}

/// The config with its files made, those with absolute paths in the home directory too.
fn with_files(town: &Town, text: &str) -> String {
    let mut text = text.to_owned();
    for key in ["file", "certificate", "key", "next_certificate", "next_key", "ca", "upstream_ca"] {
        let marker = format!("{key} = \"");
        let names: BTreeSet<String> = text
            .match_indices(&marker)
            .filter(|(at, _)| text[..*at].ends_with([' ', '\n', '{']))
            .filter_map(|(at, _)| text[at + marker.len()..].split('"').next().map(str::to_owned))
            .collect();
        for name in names {
            let flat = name.trim_start_matches('/').replace('/', "-");
            let path = town.home.work(&flat);
            if !path.exists() {
                fs::write(&path, town.world.ca_pem()).unwrap();
                fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            }
            text = text.replace(&format!("{marker}{name}\""), &format!("{marker}{flat}\""));
        }
    }
    text
}

/// `docs/credentials.md` has an example of everything that there is.
#[tokio::test]
async fn every_way_to_a_token_is_shown() {
    let town = Town::new().await;
    let documents = documents();
    let document = documents.iter().find(|document| document.path.ends_with("docs/credentials.md")).unwrap();
    let (mut grants, mut methods, mut presets) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for block in document.blocks("toml").iter().filter(|block| is_whole(block)) {
        let settings = load(&town, &block.text).unwrap_or_else(|problems| panic!("{problems}"));
        let steps = settings.credentials.iter().flat_map(|spec| &spec.steps);
        for step in steps {
            grants.insert(step.name());
            methods.insert(step.client.auth.name());
        }
        let named = block.text.lines().filter_map(|line| line.strip_prefix("preset = \"")?.split('"').next());
        presets.extend(named.map(str::to_owned));
    }
    let all_grants = [
        "authorization_code",
        "basic",
        "ciba",
        "client_credentials",
        "device_code",
        "github_app",
        "http",
        "jwt_bearer",
        "metadata_server",
        "refresh_token",
        "saml2_bearer",
        "self_signed_jwt",
        "static",
        "token_exchange",
    ];
    assert_eq!(grants.into_iter().collect::<Vec<_>>(), all_grants);
    let all_methods = [
        "assertion",
        "client_secret_basic",
        "client_secret_jwt",
        "client_secret_post",
        "none",
        "private_key_jwt",
        "self_signed_tls_client_auth",
        "tls_client_auth",
    ];
    assert_eq!(methods.into_iter().collect::<Vec<_>>(), all_methods);
    let all_presets = ["auth0", "cognito", "entra", "github_app", "google", "keycloak", "okta", "salesforce"];
    assert_eq!(presets.into_iter().collect::<Vec<_>>(), all_presets);
}

#[tokio::test]
async fn the_config_at_the_root_loads() {
    let town = Town::new().await;
    town.home.write("proxy.toml", fs::read_to_string(root().join("proxy.toml")).unwrap());
    town.home.write("demo-ca.pem", town.world.ca_pem());
    let checked = town.home.run(&["check"]).await.expect(0);
    assert!(checked.stdout.starts_with("./proxy.toml: 2 routes, 1 agent, 1 credential\n"), "{}", checked.stdout);
    assert_eq!(checked.stderr, "");
}

/// Read by the real program, up to where it looks for its config: nothing is started.
#[tokio::test]
async fn every_command_shown_is_understood() {
    let home = Home::new();
    let mut found = 0;
    for document in documents() {
        for block in document.blocks("sh") {
            for line in block.text.lines() {
                let Some(words) = command(line) else { continue };
                found += 1;
                let words: Vec<&str> = words.iter().map(String::as_str).collect();
                let is_demo = words.first() == Some(&"demo");
                let arguments = if is_demo { [&words[..], &["--help"]].concat() } else { words };
                let mut command = home.cupbearer(&arguments);
                command.env("CUPBEARER_CONFIG", "/nowhere/proxy.toml");
                let finished = crate::binary::finish(command).await;
                let understood = finished.status == 0 || finished.stderr.contains("can't read ");
                assert!(understood, "{}: {line}\n{}", document.name(), finished.all());
            }
        }
    }
    assert!(found >= 6, "only {found} commands were found");
}

/// The arguments of a line that runs `cupbearer`.
fn command(line: &str) -> Option<Vec<String>> {
    let words = words(line);
    let mut words = words.into_iter().skip_while(|word| word.contains('=') && !word.starts_with('-'));
    match words.next()?.as_str() {
        "cupbearer" => {}
        "cargo" => {
            let mut rest = words.by_ref().skip_while(|word| word != "--");
            rest.next()?;
        }
        _ => return None,
    }
    Some(words.take_while(|word| !["|", ">", ">>", "&&", ";", "#"].contains(&word.as_str())).collect())
}

/// As a shell would split it, for what documents show: blanks and quotes.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote, mut any) = (Vec::new(), String::new(), None, false);
    for character in line.chars() {
        match (quote, character) {
            (None, '\'' | '"') => (quote, any) = (Some(character), true),
            (Some(open), close) if open == close => quote = None,
            (None, blank) if blank.is_whitespace() => {
                if any {
                    words.push(std::mem::take(&mut word));
                }
                any = false;
            }
            (_, other) => {
                word.push(other);
                any = true;
            }
        }
    }
    if any {
        words.push(word);
    }
    words
}

#[test]
fn lines_are_split_as_a_shell_does() {
    assert_eq!(words("a 'b c'  d=\"e f\""), ["a", "b c", "d=e f"]);
    assert_eq!(command("KEY=x cupbearer env | sh").unwrap(), ["env"]);
    assert_eq!(command("cargo run --release -- demo --once").unwrap(), ["demo", "--once"]);
    assert_eq!(command("cargo test"), None);
    assert_eq!(command("curl https://a.example"), None);
}

#[test]
fn every_link_leads_to_a_file() {
    let (mut found, mut broken) = (0, Vec::new());
    for document in documents() {
        for (at, _) in document.text.match_indices("](") {
            let target = document.text[at + 2..].split(')').next().unwrap();
            if target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            found += 1;
            let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
            let path = if file.is_empty() { document.path.clone() } else { document.path.parent().unwrap().join(file) };
            let Ok(text) = fs::read_to_string(&path).or_else(|_| fs::read_dir(&path).map(|_| String::new())) else {
                broken.push(format!("{}: {target}", document.name()));
                continue;
            };
            if !anchor.is_empty() && !text.lines().filter(|line| line.starts_with('#')).any(|line| slug(line) == anchor)
            {
                broken.push(format!("{}: no such heading: {target}", document.name()));
            }
        }
    }
    assert!(found >= 6, "only {found} links were found");
    assert!(broken.is_empty(), "these lead nowhere:\n{}", broken.join("\n"));
}

/// As GitHub makes a heading's anchor.
fn slug(heading: &str) -> String {
    let text = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = text.chars().filter(|c| c.is_alphanumeric() || matches!(c, '-' | '_' | ' '));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}
