//! What callers and operators see of the store: entries that survive, and files that are
//! refused. `damage` has files that somebody spoilt, `processes` those who share a directory.

mod damage;
mod processes;

use std::{
    fs,
    io::Write,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use super::{Change, Embedded, Key, Memory, Store, StoreError, StoreKey};
use crate::{
    files,
    primitives::{CredentialName, Secret},
};

const CANARY: &str = "canary-refresh-token";

fn session(name: &str) -> Key {
    Key::session(&CredentialName::parse(name).unwrap())
}

fn directory() -> (tempfile::TempDir, PathBuf) {
    let parent = tempfile::tempdir().unwrap();
    let directory = parent.path().join("state/store");
    (parent, directory)
}

/// In memory where the system has a place for that, for tests with thousands of writes: what
/// a process leaves when it dies is there as on any disk, and `fsync` costs nothing.
fn fast_directory() -> (tempfile::TempDir, PathBuf) {
    let memory = Path::new("/dev/shm");
    let parent = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap();
    let directory = parent.path().join("state/store");
    (parent, directory)
}

fn open(directory: &Path) -> Result<Embedded, StoreError> {
    Embedded::open(directory, &StoreKey::File)
}

fn given(text: &str) -> StoreKey {
    StoreKey::Given(Secret::new(text.to_owned()))
}

fn put(store: &dyn Store, key: &Key, value: &str) {
    store.write(&[Change::Put(key, value.as_bytes())]).unwrap();
}

fn text(store: &dyn Store, key: &Key) -> Option<String> {
    store.get(key).unwrap().map(|value| String::from_utf8(value.to_vec()).unwrap())
}

/// Message and causes, as an operator sees them.
fn whole(error: &StoreError) -> String {
    let mut text = format!("{error} {error:?}");
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}

/// Past the harness, which would keep it to itself unless the test fails.
fn tell(what: impl std::fmt::Display) {
    let _ = writeln!(std::io::stdout(), "\n{what}");
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// Everything below `directory`, itself included.
fn below(directory: &Path) -> Vec<PathBuf> {
    let mut found = vec![directory.to_owned()];
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(below(&path)) } else { found.push(path) }
    }
    found
}

/// What every store does.
fn keeps_its_promises(store: &dyn Store) {
    let (orders, mail, token) = (session("orders"), session("mail"), Key::token(&[7; 32]));
    assert_eq!(text(store, &orders), None);
    assert_eq!(store.keys().unwrap(), []);

    store.write(&[Change::Put(&orders, b"1"), Change::Put(&mail, b""), Change::Put(&token, b"3")]).unwrap();
    assert_eq!(text(store, &orders).as_deref(), Some("1"));
    assert_eq!(text(store, &mail).as_deref(), Some(""), "an empty value is a value");
    let mut keys = store.keys().unwrap();
    keys.sort();
    assert_eq!(keys, [mail.clone(), orders.clone(), token.clone()]);

    store.write(&[Change::Put(&orders, b"2"), Change::Remove(&mail), Change::Remove(&session("none"))]).unwrap();
    assert_eq!((text(store, &orders).as_deref(), text(store, &mail)), (Some("2"), None));
    store.write(&[]).unwrap();

    let guard = store.try_lock(&orders).unwrap().unwrap();
    assert!(store.try_lock(&orders).unwrap().is_none());
    assert!(store.try_lock(&mail).unwrap().is_some());
    std::thread::scope(|scope| assert!(scope.spawn(|| store.try_lock(&orders).unwrap().is_none()).join().unwrap()));
    // Reading and writing don't ask for it.
    put(store, &orders, "3");
    drop(guard);
    assert!(store.try_lock(&orders).unwrap().is_some());
}

#[test]
fn stores_keep_their_promises() {
    let (_parent, directory) = directory();
    keeps_its_promises(&open(&directory).unwrap());
    keeps_its_promises(&Memory::default());
}

#[test]
fn entries_survive_a_restart() {
    let (_parent, directory) = directory();
    let (orders, token) = (session("orders"), Key::token(&[7; 32]));
    let store = open(&directory).unwrap();
    put(&store, &orders, "1");
    put(&store, &token, &"x".repeat(100_000));
    drop(store);
    let store = open(&directory).unwrap();
    assert_eq!(text(&store, &orders).as_deref(), Some("1"));
    assert_eq!(text(&store, &token), Some("x".repeat(100_000)));
    // Two stores on one directory in one process see each other's writes.
    let other = open(&directory).unwrap();
    put(&other, &orders, "2");
    assert_eq!(text(&store, &orders).as_deref(), Some("2"));
}

#[test]
fn a_session_and_a_token_of_one_name_are_two_entries() {
    let (_parent, directory) = directory();
    let store = open(&directory).unwrap();
    let digest = [0xab; 32];
    let (token, session) = (Key::token(&digest), session(&"ab".repeat(32)));
    assert_eq!(token.name(), session.name());
    put(&store, &token, "token");
    put(&store, &session, "session");
    assert_eq!(text(&store, &token).as_deref(), Some("token"));
    assert_eq!(text(&store, &session).as_deref(), Some("session"));
    let _guard = store.try_lock(&token).unwrap().unwrap();
    assert!(store.try_lock(&session).unwrap().is_some());
}

/// Threat 20.
#[test]
fn everything_is_for_the_owner_alone() {
    let (_parent, directory) = directory();
    let store = open(&directory).unwrap();
    put(&store, &session("orders"), "1");
    let _guard = store.try_lock(&session("orders")).unwrap();
    let found = below(&directory);
    assert!(found.len() >= 7, "{found:?}");
    for path in &found {
        assert_eq!(mode(path), if path.is_dir() { 0o700 } else { 0o600 }, "{path:?}");
    }
    for (name, loose, tight, command) in [
        ("", 0o750, 0o700, "chmod 700"),
        ("locks", 0o701, 0o700, "chmod 700"),
        ("store.redb", 0o640, 0o600, "chmod 600"),
        ("store.key", 0o604, 0o600, "chmod 600"),
    ] {
        let path = if name.is_empty() { directory.clone() } else { directory.join(name) };
        set_mode(&path, loose);
        let error = open(&directory).unwrap_err();
        assert!(matches!(error, StoreError::File(_)), "{error}");
        assert!(error.to_string().contains(&format!("{command} {}", path.display())), "{error}");
        set_mode(&path, tight);
        open(&directory).unwrap();
    }
    // A running store looks, too.
    set_mode(&directory.join("store.redb"), 0o644);
    let error = store.get(&session("orders")).unwrap_err();
    assert!(matches!(error, StoreError::File(files::Error::LooseMode { mode: 0o644, .. })), "{error}");
}

/// Threat 21.
#[test]
fn no_value_is_in_clear_anywhere() {
    let (_parent, directory) = directory();
    let store = open(&directory).unwrap();
    let orders = session("orders");
    put(&store, &orders, CANARY);
    let key = fs::read_to_string(directory.join("store.key")).unwrap();
    let mut seen = 0;
    for path in below(&directory).iter().filter(|path| path.is_file()) {
        let bytes = fs::read(path).unwrap();
        seen += bytes.len();
        let holds = |needle: &str| bytes.windows(needle.len()).any(|window| window == needle.as_bytes());
        assert!(!holds(CANARY), "{path:?}");
        assert!(path.ends_with("store.key") || !holds(key.trim()), "{path:?}");
    }
    assert!(seen > 10_000, "{seen}");
    let change = Change::Put(&orders, CANARY.as_bytes());
    let shown = format!("{store:?} {change:?} {:?} {:?}", given(CANARY), store.try_lock(&orders).unwrap());
    assert!(!shown.contains("canary") && !shown.contains("99, 97, 110"), "{shown}");
    let memory = Memory::default();
    put(&memory, &orders, CANARY);
    assert!(!format!("{memory:?}").contains("canary"));
}

// === the key ===

#[test]
fn a_key_is_made_once() {
    let (_parent, one) = directory();
    let (_other_parent, two) = directory();
    open(&one).unwrap();
    open(&two).unwrap();
    let key = |directory: &Path| fs::read_to_string(directory.join("store.key")).unwrap();
    let first = key(&one);
    assert_eq!(first.trim().len(), 64);
    assert_ne!(first, key(&two));
    open(&one).unwrap();
    assert_eq!(key(&one), first);
    // The same text from elsewhere is the same key.
    fs::remove_file(one.join("store.key")).unwrap();
    Embedded::open(&one, &given(first.trim())).unwrap();
}

#[test]
fn a_missing_key_is_never_made_anew() {
    let (_parent, directory) = directory();
    put(&open(&directory).unwrap(), &session("orders"), "1");
    let key = directory.join("store.key");
    let kept = fs::read(&key).unwrap();
    fs::remove_file(&key).unwrap();
    let error = open(&directory).unwrap_err();
    assert!(matches!(&error, StoreError::MissingKey { key: named, .. } if *named == key), "{error}");
    assert!(error.to_string().contains("cupbearer login"), "{error}");
    assert!(!key.exists());
    files::replace(&key, std::str::from_utf8(&kept).unwrap()).unwrap();
    assert_eq!(text(&open(&directory).unwrap(), &session("orders")).as_deref(), Some("1"));
}

#[test]
fn another_key_is_refused_at_the_start() {
    let (_parent, directory) = directory();
    let (right, wrong) = (given(&"0123456789abcdef".repeat(2)), given("a-canary-key-of-more-than-22-letters"));
    put(&Embedded::open(&directory, &right).unwrap(), &session("orders"), "1");
    assert!(!directory.join("store.key").exists());
    let error = Embedded::open(&directory, &wrong).unwrap_err();
    assert!(matches!(error, StoreError::OtherKey { .. }), "{error}");
    assert!(!whole(&error).contains("canary"), "{error:?}");
    assert!(matches!(open(&directory), Err(StoreError::MissingKey { .. })));
    assert_eq!(text(&Embedded::open(&directory, &right).unwrap(), &session("orders")).as_deref(), Some("1"));
}

#[test]
fn a_key_that_can_not_be_good_is_refused() {
    for weak in ["", "hunter2-canary", &"0123456789".repeat(4), &"ab".repeat(15), "canary-canary-canary-"] {
        let (_parent, directory) = directory();
        let error = Embedded::open(&directory, &given(weak)).unwrap_err();
        assert!(matches!(error, StoreError::WeakKey), "{weak}: {error}");
        assert!(!whole(&error).contains("canary") && error.to_string().contains("openssl rand"), "{error}");
        assert!(!directory.join("store.redb").exists());
        let (_parent, directory) = self::directory();
        open(&directory).unwrap();
        files::replace(&directory.join("store.key"), weak).unwrap();
        let error = open(&directory).unwrap_err();
        assert!(matches!(error, StoreError::BadKeyFile { .. }), "{weak}: {error}");
        assert!(!whole(&error).contains("canary"), "{error}");
    }
    for good in ["0123456789".repeat(5), "ab".repeat(16), "Zm9vYmFyYmF6cXV4MTIzNA==".to_owned()] {
        let (_parent, directory) = directory();
        Embedded::open(&directory, &given(&good)).unwrap();
    }
}

/// A file put in another store's place has its own salt: one key in two stores is no matter.
#[test]
fn a_store_replaced_under_a_running_process_is_noticed() {
    let key = given(&"0123456789abcdef".repeat(2));
    let (_parent, one) = directory();
    let (_other_parent, two) = directory();
    let store = Embedded::open(&one, &key).unwrap();
    put(&Embedded::open(&two, &key).unwrap(), &session("orders"), "1");
    fs::copy(two.join("store.redb"), one.join("store.redb")).unwrap();
    assert!(matches!(store.get(&session("orders")), Err(StoreError::OtherKey { .. })));
    fs::remove_file(one.join("store.redb")).unwrap();
    for error in [
        store.get(&session("orders")).unwrap_err(),
        store.keys().unwrap_err(),
        store.write(&[Change::Remove(&session("orders"))]).unwrap_err(),
        Embedded::open(&one, &key).unwrap_err(),
    ] {
        assert!(matches!(error, StoreError::Missing { .. }), "{error}");
    }
    assert!(!one.join("store.redb").exists(), "never an empty store in place of one that is gone");
}

// === backups ===

/// Standards B4.
#[test]
fn a_database_from_a_backup_is_refused() {
    let (_parent, directory) = directory();
    let (database, generation) = (directory.join("store.redb"), directory.join("store.generation"));
    let backup = directory.join("backup");
    let orders = session("orders");
    let store = open(&directory).unwrap();
    put(&store, &orders, "old");
    fs::copy(&database, &backup).unwrap();
    put(&store, &orders, "new");
    fs::copy(&backup, &database).unwrap();
    for error in [
        store.get(&orders).unwrap_err(),
        store.write(&[Change::Put(&orders, b"newer")]).unwrap_err(),
        open(&directory).unwrap_err(),
    ] {
        assert!(matches!(error, StoreError::Restored { found: 1, written: 2, .. }), "{error}");
        let message = error.to_string();
        assert!(message.contains(&format!("remove {}", generation.display())), "{message}");
        assert!(message.contains("cupbearer login"), "{message}");
    }
    // To take it knowingly.
    fs::remove_file(&generation).unwrap();
    let store = open(&directory).unwrap();
    assert_eq!(text(&store, &orders).as_deref(), Some("old"));
    assert_eq!(fs::read_to_string(&generation).unwrap(), "format 1\ngeneration 1\n");
    put(&store, &orders, "newer");
    fs::copy(&backup, &database).unwrap();
    assert!(matches!(open(&directory), Err(StoreError::Restored { .. })), "and again");
}

/// What a crash between the commit and the generation file leaves.
#[test]
fn a_database_that_is_ahead_is_fine() {
    let (_parent, directory) = directory();
    let generation = directory.join("store.generation");
    let orders = session("orders");
    let store = open(&directory).unwrap();
    (0..3).for_each(|number| put(&store, &orders, &number.to_string()));
    files::replace(&generation, "format 1\ngeneration 2\n").unwrap();
    assert_eq!(text(&store, &orders).as_deref(), Some("2"));
    assert_eq!(text(&open(&directory).unwrap(), &orders).as_deref(), Some("2"));
    assert_eq!(fs::read_to_string(&generation).unwrap(), "format 1\ngeneration 3\n");
}
