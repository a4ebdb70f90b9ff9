//! The load that wrk and h2load can't make: through `CONNECT`, with TLS inside, and in bulk.
//! Much cheaper than the proxies that it loads: requests are written from one buffer, answers are
//! read as far as it takes to count them.
//!
//!     compare-load keepalive connect=ADDRESS path=/small connections=64 seconds=5 …
//!     compare-load handshake …     a new connection for each request
//!     compare-load bulk …          one request with a long body, `up=BYTES` or none
//!     compare-load idle …          one request on each connection, which then stays until stdin ends
//!     compare-load first …         tries until the first request is answered
//!     compare-load herd …          one request on each connection, all at once
//!     compare-load origin http=ADDRESS https=ADDRESS certificate=FILE key=FILE
//!
//! Besides: `tunnel=HOST:PORT` (CONNECT first), `proxy_auth=…`, `tls=NAME` with `ca=FILE,FILE`, `h2=STREAMS`,
//! `header=NAME: VALUE`, `warm=SECONDS`. Prints `warm` when counting starts, then `requests=N errors=N seconds=S`.

mod client;
mod origin;

use std::cell::Cell;
use std::collections::HashMap;
use std::io::Write;
use std::rc::Rc;
use std::time::{Duration, Instant};

use client::{Failure, Target, Wire};
use tokio::io::AsyncReadExt;
use tokio::task::LocalSet;

pub type Options = HashMap<String, String>;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let mode = arguments.next().expect("a mode");
    let options: Options = arguments
        .map(|argument| argument.split_once('=').map(|(k, v)| (k.to_owned(), v.to_owned())).expect("KEY=VALUE"))
        .collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    LocalSet::new().block_on(&runtime, async {
        match mode.as_str() {
            "keepalive" => timed(&options, false).await,
            "handshake" => timed(&options, true).await,
            "bulk" => bulk(&options).await,
            "idle" => idle(&options).await,
            "first" => first(&options).await,
            "herd" => herd(&options).await,
            "origin" => origin::serve(&options).await,
            other => panic!("no mode {other}"),
        }
    });
}

pub fn number(options: &Options, name: &str, default: u64) -> u64 {
    options.get(name).map_or(default, |value| value.parse().expect("a number"))
}

#[derive(Default)]
struct Counts {
    requests: Cell<u64>,
    errors: Cell<u64>,
    over: Cell<bool>,
}

impl Counts {
    fn add(&self, outcome: Result<(), Failure>) -> bool {
        match outcome {
            Ok(()) => self.requests.set(self.requests.get() + 1),
            Err(failure) if !self.over.get() => {
                if self.errors.get() < 3 {
                    eprintln!("{failure}");
                }
                self.errors.set(self.errors.get() + 1);
                return false;
            }
            Err(_) => return false,
        }
        true
    }
}

fn say(line: &str) {
    println!("{line}");
    std::io::stdout().flush().expect("stdout");
}

async fn timed(options: &Options, fresh: bool) {
    let target = Rc::new(Target::new(options));
    let counts = Rc::new(Counts::default());
    for _ in 0..number(options, "connections", 64) {
        tokio::task::spawn_local(worker(target.clone(), counts.clone(), fresh));
    }
    tokio::time::sleep(Duration::from_millis(number(options, "warm_ms", 1000))).await;
    let (before, errors) = (counts.requests.get(), counts.errors.get());
    let started = Instant::now();
    say("warm");
    tokio::time::sleep(Duration::from_secs(number(options, "seconds", 5))).await;
    let requests = counts.requests.get() - before;
    let errors = counts.errors.get() - errors;
    say(&format!("requests={requests} errors={errors} seconds={:.6}", started.elapsed().as_secs_f64()));
    counts.over.set(true);
    // Whoever started this takes its measure now, before the connections end.
    wait_for_stdin().await;
}

async fn worker(target: Rc<Target>, counts: Rc<Counts>, fresh: bool) {
    while !counts.over.get() {
        let mut wire = match target.connect().await {
            Ok(wire) => wire,
            Err(failure) => {
                counts.add(Err(failure));
                tokio::time::sleep(Duration::from_millis(5)).await;
                continue;
            }
        };
        if fresh {
            counts.add(wire.request(&target).await);
            wire.close().await;
        } else if let Wire::H2(sender) = wire {
            let streams: Vec<_> = (0..target.streams)
                .map(|_| {
                    let (sender, target, counts) = (sender.clone(), target.clone(), counts.clone());
                    tokio::task::spawn_local(async move {
                        let mut wire = Wire::H2(sender);
                        while !counts.over.get() && counts.add(wire.request(&target).await) {}
                    })
                })
                .collect();
            for stream in streams {
                let _ = stream.await;
            }
        } else {
            while !counts.over.get() && counts.add(wire.request(&target).await) {}
        }
    }
}

async fn bulk(options: &Options) {
    let target = Target::new(options);
    let mut wire = target.connect().await.expect("a connection");
    say("warm");
    let started = Instant::now();
    let bytes = wire.bulk(&target, number(options, "up", 0)).await.expect("the transfer");
    say(&format!("requests=1 errors=0 seconds={:.6} bytes={bytes}", started.elapsed().as_secs_f64()));
    wait_for_stdin().await;
}

async fn idle(options: &Options) {
    let target = Rc::new(Target::new(options));
    let count = number(options, "connections", 5000);
    let mut held = Vec::new();
    let mut errors = 0;
    // A few at a time: so many agents that ask at once are another scenario.
    while (held.len() as u64) < count && errors < 10 {
        let opened = (held.len()..count as usize).take(16).map(|_| {
            let target = target.clone();
            tokio::task::spawn_local(async move {
                let mut wire = target.connect().await?;
                wire.request(&target).await.map(|()| wire)
            })
        });
        for task in opened.collect::<Vec<_>>() {
            match task.await.expect("a task") {
                Ok(wire) => held.push(wire),
                Err(failure) => {
                    eprintln!("{failure}");
                    errors += 1;
                }
            }
        }
    }
    say(&format!("requests={} errors={errors} seconds=0", held.len()));
    wait_for_stdin().await;
}

async fn first(options: &Options) {
    let target = Target::new(options);
    let started = Instant::now();
    loop {
        if let Ok(mut wire) = target.connect().await
            && wire.request(&target).await.is_ok()
        {
            break;
        }
        assert!(started.elapsed() < Duration::from_secs(30), "no answer in 30 s");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    say("requests=1 errors=0 seconds=0");
}

async fn herd(options: &Options) {
    let target = Rc::new(Target::new(options));
    let counts = Rc::new(Counts::default());
    let mut wires = Vec::new();
    for _ in 0..number(options, "connections", 64) {
        wires.push(target.connect().await.expect("a connection"));
    }
    let started = Instant::now();
    let tasks: Vec<_> = wires
        .into_iter()
        .map(|mut wire| {
            let (target, counts) = (target.clone(), counts.clone());
            tokio::task::spawn_local(async move { counts.add(wire.request(&target).await) })
        })
        .collect();
    for task in tasks {
        let _ = task.await;
    }
    say(&format!(
        "requests={} errors={} seconds={:.6}",
        counts.requests.get(),
        counts.errors.get(),
        started.elapsed().as_secs_f64()
    ));
}

async fn wait_for_stdin() {
    let mut nothing = [0; 64];
    while tokio::io::stdin().read(&mut nothing).await.is_ok_and(|read| read > 0) {}
    // The runtime would wait for its blocking read, and its connections don't matter any more.
    std::process::exit(0);
}
