//! Files that somebody or something spoilt: each is a clear error, none an empty store, none
//! a panic.

use std::{fs, path::Path};

use proptest::prelude::*;
use redb::{Database, ReadableDatabase, TableDefinition};

use super::{CANARY, directory, fast_directory, given, open, put, session, tell, text, whole};
use crate::{
    credential::store::{Change, Embedded, Key, Store, StoreError, cipher::Cipher},
    files,
    primitives::Secret,
};

const META: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("metadata");
const ENTRIES: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("entries");

/// Puts `value` at `name`, behind the store's back.
fn overwrite(directory: &Path, table: TableDefinition<'_, &[u8], &[u8]>, name: &[u8], value: Option<&[u8]>) {
    let database = Database::open(directory.join("store.redb")).unwrap();
    let transaction = database.begin_write().unwrap();
    {
        let mut table = transaction.open_table(table).unwrap();
        match value {
            Some(value) => table.insert(name, value).map(|_| ()).unwrap(),
            None => table.remove(name).map(|_| ()).unwrap(),
        }
    }
    transaction.commit().unwrap();
}

#[test]
fn a_newer_version_is_named() {
    let (_parent, directory) = directory();
    put(&open(&directory).unwrap(), &session("orders"), "1");
    overwrite(&directory, META, b"format", Some(&7_u64.to_be_bytes()));
    let error = open(&directory).unwrap_err();
    assert!(matches!(error, StoreError::Newer { found: 7, known: 1, .. }), "{error}");
    assert!(error.to_string().contains("format 7") && error.to_string().contains("up to 1"), "{error}");

    // Also where the newer version writes files that redb 4 can't read.
    fs::write(directory.join("store.redb"), "something else").unwrap();
    files::replace(&directory.join("store.generation"), "format 8\nwhatever\n").unwrap();
    assert!(matches!(open(&directory), Err(StoreError::Newer { found: 8, known: 1, .. })));
}

#[test]
fn a_database_that_is_none_is_refused_and_left_alone() {
    let (_parent, directory) = directory();
    put(&open(&directory).unwrap(), &session("orders"), "1");
    let database = directory.join("store.redb");
    let good = fs::read(&database).unwrap();
    let truncated = &good[..good.len() / 2];
    for bad in [&b""[..], b"x", &[0; 100_000], b"not a database, but long enough to hold a header of one", truncated] {
        fs::write(&database, bad).unwrap();
        let error = open(&directory).unwrap_err();
        assert!(matches!(error, StoreError::Damaged { .. }), "{}", whole(&error));
        assert!(error.to_string().contains("backup") && error.to_string().contains("cupbearer login"), "{error}");
        assert_eq!(fs::read(&database).unwrap(), bad);
    }
    fs::write(&database, &good).unwrap();
    assert_eq!(text(&open(&directory).unwrap(), &session("orders")).as_deref(), Some("1"));
}

#[test]
fn a_database_of_something_else_is_refused() {
    for missing in ["format", "salt", "check", "generation"] {
        let (_parent, directory) = directory();
        put(&open(&directory).unwrap(), &session("orders"), "1");
        overwrite(&directory, META, missing.as_bytes(), None);
        let error = open(&directory).unwrap_err();
        assert!(matches!(error, StoreError::Damaged { .. }), "{missing}: {error}");
    }
    let (_parent, directory) = directory();
    open(&directory).unwrap();
    fs::remove_file(directory.join("store.redb")).unwrap();
    drop(Database::create(directory.join("store.redb")).unwrap());
    files::replace(&directory.join("store.generation"), "format 1\ngeneration 0\n").unwrap();
    fs::set_permissions(directory.join("store.redb"), std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let error = open(&directory).unwrap_err();
    assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
}

#[test]
fn a_generation_file_that_is_none_is_refused() {
    for bad in
        ["", "1", "format 1\n", "format 1\ngeneration -1\n", "format x\ngeneration 1\n", "generation 1\nformat 1\n"]
    {
        let (_parent, directory) = directory();
        open(&directory).unwrap();
        files::replace(&directory.join("store.generation"), bad).unwrap();
        let error = open(&directory).unwrap_err();
        assert!(matches!(error, StoreError::DamagedGeneration { .. }), "{bad:?}: {error}");
    }
}

/// Who can write to the database, but hasn't the key, can't give one entry's value to another.
#[test]
fn values_belong_to_their_names() {
    let (_parent, directory) = directory();
    let store = open(&directory).unwrap();
    let (orders, mail) = (session("orders"), session("mail"));
    put(&store, &orders, CANARY);
    put(&store, &mail, "2");
    let database = Database::open(directory.join("store.redb")).unwrap();
    let table = database.begin_read().unwrap().open_table(ENTRIES).unwrap();
    let sealed = table.get(&orders.bytes()[..]).unwrap().unwrap().value().to_vec();
    drop((table, database));
    overwrite(&directory, ENTRIES, &mail.bytes(), Some(&sealed));
    let error = store.get(&mail).unwrap_err();
    assert!(matches!(&error, StoreError::DamagedEntry { key, .. } if *key == mail), "{error}");
    assert!(error.to_string().contains("session `mail`"), "{error}");
    assert!(!whole(&error).contains("canary"), "{error:?}");
    assert_eq!(text(&store, &orders).as_deref(), Some(CANARY), "the others are as they were");
    put(&store, &mail, "3");
    assert_eq!(text(&store, &mail).as_deref(), Some("3"));

    // Nor one store's to another, under one key.
    let key = given(&"0123456789abcdef".repeat(2));
    let (_parent, other) = super::directory();
    let other_store = Embedded::open(&other, &key).unwrap();
    put(&other_store, &orders, "1");
    overwrite(&other, ENTRIES, &orders.bytes(), Some(&sealed));
    assert!(matches!(other_store.get(&orders), Err(StoreError::DamagedEntry { .. })));
}

#[test]
fn a_name_that_is_none_is_damage() {
    let (_parent, directory) = directory();
    let store = open(&directory).unwrap();
    put(&store, &session("orders"), "1");
    for bad in [&b""[..], b"\x09orders", b"\x01\xff\xfe"] {
        overwrite(&directory, ENTRIES, bad, Some(b"x"));
        assert!(matches!(store.keys(), Err(StoreError::Damaged { .. })), "{bad:?}");
        overwrite(&directory, ENTRIES, bad, None);
        assert_eq!(store.keys().unwrap(), [session("orders")]);
    }
}

#[test]
fn a_database_that_another_program_has_open_is_busy() {
    let (_parent, directory) = directory();
    let store = open(&directory).unwrap();
    let other = Database::open(directory.join("store.redb")).unwrap();
    let error = store.write(&[Change::Put(&session("orders"), b"1")]).unwrap_err();
    assert!(matches!(error, StoreError::Busy { .. }), "{error}");
    assert!(error.to_string().contains("store.redb"), "{error}");
    drop(other);
    assert_eq!(text(&store, &session("orders")), None);
    put(&store, &session("orders"), "2");
}

fn cipher() -> Cipher {
    Cipher::new(&Secret::new("0123456789abcdef".repeat(2)), &[1; 32]).unwrap()
}

/// Two of them would be one text, but for their nonces.
#[test]
fn nothing_is_sealed_like_anything_else() {
    let key = session("orders");
    let sealed = cipher().seal(&key, b"").unwrap();
    assert_ne!(sealed, cipher().seal(&key, b"").unwrap());
    assert_eq!(cipher().open(&key, &sealed).unwrap().to_vec(), b"");
}

proptest! {
    #[test]
    fn what_was_sealed_opens(value in proptest::collection::vec(any::<u8>(), 0..300)) {
        let key = session("orders");
        let sealed = cipher().seal(&key, &value).unwrap();
        prop_assert_ne!(&sealed, &cipher().seal(&key, &value).unwrap(), "a nonce was used twice");
        prop_assert_eq!(cipher().open(&key, &sealed).unwrap().to_vec(), value);
        prop_assert!(cipher().open(&session("order"), &sealed).is_none());
        prop_assert!(cipher().open(&Key::token(&[0; 32]), &sealed).is_none());
        let other_salt = Cipher::new(&Secret::new("0123456789abcdef".repeat(2)), &[2; 32]).unwrap();
        prop_assert!(other_salt.open(&key, &sealed).is_none());
    }

    #[test]
    fn damaged_bytes_never_open(
        value in proptest::collection::vec(any::<u8>(), 0..100),
        at in any::<proptest::sample::Index>(),
        flip in 1..=u8::MAX,
        length in any::<proptest::sample::Index>(),
    ) {
        let key = session("orders");
        let sealed = cipher().seal(&key, &value).unwrap();
        let mut flipped = sealed.clone();
        flipped[at.index(sealed.len())] ^= flip;
        prop_assert!(cipher().open(&key, &flipped).is_none());
        prop_assert!(cipher().open(&key, &sealed[..length.index(sealed.len())]).is_none());
        prop_assert!(cipher().open(&key, &[&sealed[..], &[flip]].concat()).is_none());
    }

    #[test]
    fn arbitrary_bytes_never_open(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(cipher().open(&session("orders"), &bytes).is_none());
    }
}

/// One spoilt place in the file: the right answer or an error, whichever place it is.
#[test]
fn a_spoilt_database_errs_or_answers_right() {
    let (_parent, directory) = fast_directory();
    let store = open(&directory).unwrap();
    let names: Vec<Key> = (0..8).map(|number| session(&format!("credential-{number}"))).collect();
    names.iter().for_each(|name| put(&store, name, &name.to_string().repeat(60)));
    let database = directory.join("store.redb");
    let good = fs::read(&database).unwrap();
    let mut seen = [0, 0];
    for round in 0..400 {
        let mut random = [0; 8];
        aws_lc_rs::rand::fill(&mut random).unwrap();
        // Every other one in the header, where most depends on it.
        let range = if round % 2 == 0 { 512 } else { good.len() };
        let at = usize::from_be_bytes(random) % range;
        let length = [1, 16, 4096][round % 3].min(good.len() - at);
        let mut bad = good.clone();
        bad[at..at + length].iter_mut().for_each(|byte| *byte ^= random[7] | 1);
        fs::write(&database, &bad).unwrap();
        let _ = fs::remove_file(directory.join("store.generation"));
        // A write opens the file itself, and not only a copy.
        let written = store.write(&[Change::Remove(&session("none"))]);
        let answers = written.and_then(|()| names.iter().map(|name| store.get(name)).collect::<Result<Vec<_>, _>>());
        seen[usize::from(answers.is_ok())] += 1;
        match answers {
            Ok(values) => {
                for (name, value) in names.iter().zip(values) {
                    let value = value.unwrap_or_else(|| panic!("{name} is gone: {length} bytes at {at}"));
                    assert_eq!(value.to_vec(), name.to_string().repeat(60).into_bytes(), "{length} bytes at {at}");
                }
            }
            Err(StoreError::Damaged { .. } | StoreError::Io { .. } | StoreError::Database { .. }) => {}
            Err(other) => panic!("{length} bytes at {at}: {other}"),
        }
    }
    tell(format_args!("{} refused, {} answered right (the place wasn't in use)", seen[0], seen[1]));
    assert!(seen[0] > 50 && seen[1] > 50, "{seen:?}");
}
