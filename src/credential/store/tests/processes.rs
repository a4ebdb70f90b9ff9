//! Processes that share a directory, die in the middle, or run out of disk. A test starts
//! this very binary again for each of them, with the same test's name and a variable that says
//! what to do.

use std::{
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use super::{directory, fast_directory, open, put, session, tell, text};
use crate::credential::store::{Change, Embedded, Guard, Key, Store, StoreError, lock::Lock};

/// The directory, for a process that a test started.
const VARIABLE: &str = "CUPBEARER_TEST_STORE";

/// Every process of a test ends itself, or is killed when its handle goes.
struct Process(Child);

impl Process {
    fn start(mut command: Command) -> Self {
        Self(command.stdout(Stdio::piped()).spawn().unwrap())
    }

    /// What it says, line by line; the test harness' own lines are left out.
    fn lines(&mut self) -> impl Iterator<Item = String> + use<> {
        let said = BufReader::new(self.0.stdout.take().unwrap());
        said.lines().map_while(Result::ok).filter_map(|line| line.strip_prefix("say ").map(str::to_owned))
    }

    fn succeeds(mut self) {
        let status = self.0.wait().unwrap();
        assert!(status.success(), "{status}");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// This binary again, to run one test of this file on `directory`.
fn again(test: &str, directory: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(arguments(test)).env(VARIABLE, directory);
    command
}

fn arguments(test: &str) -> [String; 4] {
    let name = format!("credential::store::tests::processes::{test}");
    [name, "--exact".to_owned(), "--nocapture".to_owned(), "--test-threads=1".to_owned()]
}

/// The directory, in a process that a test started; `None` in the test itself.
fn started_on() -> Option<std::path::PathBuf> {
    std::env::var_os(VARIABLE).map(Into::into)
}

/// Ends the process where nobody listens any more.
fn say(what: impl std::fmt::Display) {
    writeln!(std::io::stdout(), "\nsay {what}").unwrap();
}

fn lock(store: &Embedded, key: &Key) -> Guard {
    loop {
        if let Some(guard) = store.try_lock(key).unwrap() {
            return guard;
        }
        std::thread::yield_now();
    }
}

/// One more, by who alone may change it.
fn count(store: &Embedded, key: &Key) {
    let guard = lock(store, key);
    let next = text(store, key).map_or(0, |number| number.parse::<u32>().unwrap()) + 1;
    put(store, key, &next.to_string());
    drop(guard);
}

/// Standards A16, B4: two that hammer one entry, and each its own, lose nothing.
#[test]
fn processes_that_share_a_directory_lose_no_update() {
    const ROUNDS: u32 = 20;
    const THREADS: usize = 2;
    const PROCESSES: u32 = 4;
    let shared = session("shared");
    if let Some(directory) = started_on() {
        let own = session(&format!("own-{}", std::process::id()));
        let store = open(&directory).unwrap();
        std::thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| {
                    for _ in 0..ROUNDS {
                        count(&store, &shared);
                        count(&store, &own);
                    }
                });
            }
        });
        return;
    }
    let (_parent, directory) = fast_directory();
    // They start together: one of them makes the store.
    let test = "processes_that_share_a_directory_lose_no_update";
    let processes: Vec<_> = (0..PROCESSES).map(|_| Process::start(again(test, &directory))).collect();
    processes.into_iter().for_each(Process::succeeds);
    let store = open(&directory).unwrap();
    let each = ROUNDS * u32::try_from(THREADS).unwrap();
    assert_eq!(text(&store, &shared), Some((each * PROCESSES).to_string()));
    let keys = store.keys().unwrap();
    assert_eq!(keys.len(), 1 + PROCESSES as usize);
    for key in keys.iter().filter(|key| **key != shared) {
        assert_eq!(text(&store, key), Some(each.to_string()), "{key}");
    }
}

/// Threat 100, standards B2: killed at any moment, a write is there or it isn't, and one that
/// was reported is there.
#[test]
fn a_write_that_is_killed_is_whole_or_not_there() {
    const ROUNDS: usize = 200;
    let (one, two) = (session("one"), Key::token(&[2; 32]));
    let value = |number: u32| format!("{number} {}", "x".repeat(number as usize % 7000));
    if let Some(directory) = started_on() {
        let store = open(&directory).unwrap();
        let before = text(&store, &one).map_or(0, |text| text.split_once(' ').unwrap().0.parse::<u32>().unwrap());
        for number in before + 1.. {
            let value = value(number);
            store.write(&[Change::Put(&one, value.as_bytes()), Change::Put(&two, value.as_bytes())]).unwrap();
            say(number);
        }
    }
    let (_parent, directory) = fast_directory();
    let (mut last, mut old, mut new, mut unheard) = (0, 0, 0, 0);
    for _ in 0..ROUNDS {
        let mut process = Process::start(again("a_write_that_is_killed_is_whole_or_not_there", &directory));
        let mut lines = process.lines();
        let random = random();
        let heard: Vec<u32> = lines.by_ref().take(random % 4).map(|line| line.parse().unwrap()).collect();
        // A random moment of the next write, which takes some ms.
        std::thread::park_timeout(Duration::from_micros((random / 4 % 10_000) as u64));
        process.0.kill().unwrap();
        let reported = heard.into_iter().chain(lines.map(|line| line.parse().unwrap())).last();
        unheard += u32::from(reported.is_none());
        let reported = reported.unwrap_or(last);
        let store = open(&directory).unwrap();
        let found = store.get(&one).unwrap();
        assert_eq!(found, store.get(&two).unwrap(), "both or none");
        let number: u32 = found.map_or(0, |found| {
            let text = String::from_utf8(found.to_vec()).unwrap();
            let number = text.split_once(' ').unwrap().0.parse().unwrap();
            assert_eq!(text, value(number));
            number
        });
        match number.checked_sub(reported) {
            Some(0) => old += 1,
            Some(1) => new += 1,
            other => panic!("{reported} was reported, {number} is there ({other:?})"),
        }
        last = number;
    }
    tell(format_args!(
        "{ROUNDS} kills: {old} times the last value reported, {new} times the one after it; {unheard} before the first; {last} writes"
    ));
    assert!(old > 0 && new > 0, "{old} old, {new} new: the kills came at one moment only");
}

/// The same while a store is made: the next start makes it or finds it.
#[test]
fn a_first_start_that_is_killed_leaves_nothing_in_the_way() {
    const ROUNDS: usize = 48;
    if let Some(directory) = started_on() {
        // The first random bytes of a process take longer than all the rest.
        let _ = random();
        say("start");
        let store = open(&directory).unwrap();
        say("open");
        put(&store, &session("orders"), "1");
        say("written");
        return;
    }
    let mut left = std::collections::BTreeMap::<_, u32>::new();
    for round in 0..ROUNDS {
        // On a disk, where each step takes its time.
        let (_parent, directory) = directory();
        let test = "a_first_start_that_is_killed_leaves_nothing_in_the_way";
        let mut process = Process::start(again(test, &directory));
        let mut lines = process.lines();
        assert_eq!(lines.next().as_deref(), Some("start"));
        // A random moment after one of these is there.
        let names = ["locks", "store.key.new", "store.key", "store.redb.new", "store.redb", "store.generation"];
        let mark = directory.join(names[round % names.len()]);
        while !mark.exists() && process.0.try_wait().unwrap().is_none() {}
        std::thread::park_timeout(Duration::from_micros((random() % 2_000) as u64));
        process.0.kill().unwrap();
        let said: Vec<String> = lines.collect();
        let has = |name: &&str| directory.join(name).exists();
        *left.entry(names.into_iter().filter(has).collect::<Vec<_>>()).or_default() += 1;
        let store = open(&directory).unwrap();
        let found = text(&store, &session("orders"));
        assert!(matches!(found.as_deref(), None | Some("1")));
        assert!(found.is_some() || !said.iter().any(|line| line == "written"));
        put(&store, &session("orders"), "2");
    }
    tell(format_args!("{ROUNDS} kills left: {left:?}"));
    assert!(left.len() > 1, "the kills came at one moment only: {left:?}");
}

#[test]
fn a_lock_goes_with_its_process() {
    let orders = session("orders");
    if let Some(directory) = started_on() {
        let _guard = open(&directory).unwrap().try_lock(&orders).unwrap().unwrap();
        say("held");
        let _ = std::io::stdin().lines().count();
        return;
    }
    let (_parent, directory) = directory();
    let store = open(&directory).unwrap();
    let mut command = again("a_lock_goes_with_its_process", &directory);
    command.stdin(Stdio::piped());
    let mut process = Process::start(command);
    assert_eq!(process.lines().next().as_deref(), Some("held"));
    assert!(store.try_lock(&orders).unwrap().is_none());
    assert!(store.try_lock(&session("mail")).unwrap().is_some());
    put(&store, &orders, "1");
    process.0.kill().unwrap();
    process.0.wait().unwrap();
    assert!(store.try_lock(&orders).unwrap().is_some());
}

/// A descriptor that a child has inherited for a moment doesn't hold what was let go.
#[test]
fn a_guard_frees_its_lock_while_children_start() {
    let (_parent, directory) = directory();
    let store = open(&directory).unwrap();
    let orders = session("orders");
    std::thread::scope(|scope| {
        let children = scope.spawn(|| {
            for _ in 0..60 {
                assert!(Command::new("true").status().unwrap().success());
            }
        });
        while !children.is_finished() {
            drop(store.try_lock(&orders).unwrap().expect("nobody else has it"));
        }
    });
}

#[test]
fn who_waits_for_a_stopped_process_is_told() {
    let (_parent, directory) = directory();
    open(&directory).unwrap();
    let path = directory.join("store.lock");
    let held = Lock::attempt(&path).unwrap().unwrap();
    let error = Lock::wait(&path, Duration::from_millis(20)).unwrap_err();
    assert!(matches!(&error, StoreError::Busy { path: named } if *named == path), "{error}");
    assert!(error.to_string().contains(&format!("fuser -v {}", path.display())), "{error}");
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| Lock::wait(&path, Duration::from_secs(60)).map(|_| ()));
        drop(held);
        waiting.join().unwrap().unwrap();
    });
}

/// Threat 108. A limit on the size of files, in place of a full disk.
#[test]
fn a_write_that_finds_no_room_changes_nothing() {
    let orders = session("orders");
    if let Some(directory) = started_on() {
        let store = open(&directory).unwrap();
        let error = store.write(&[Change::Put(&orders, &vec![b'x'; 4_000_000])]).unwrap_err();
        assert!(matches!(error, StoreError::Io { .. }), "{error:?}");
        assert!(error.to_string().contains("store.redb"), "{error}");
        assert_eq!(text(&store, &orders).as_deref(), Some("1"));
        put(&store, &orders, "2");
        say("went on");
        return;
    }
    let (_parent, directory) = directory();
    let store = open(&directory).unwrap();
    put(&store, &orders, "1");
    let script = "trap '' XFSZ; ulimit -f 2048; exec \"$0\" \"$@\"";
    let mut command = Command::new("sh");
    command.args(["-c", script]).arg(std::env::current_exe().unwrap());
    command.args(arguments("a_write_that_finds_no_room_changes_nothing")).env(VARIABLE, &directory);
    let mut process = Process::start(command);
    let said: Vec<String> = process.lines().collect();
    assert_eq!(said, ["went on"]);
    process.succeeds();
    assert_eq!(text(&store, &orders).as_deref(), Some("2"));
}

fn random() -> usize {
    let mut bytes = [0; 8];
    aws_lc_rs::rand::fill(&mut bytes).unwrap();
    usize::from_be_bytes(bytes) / 2
}
