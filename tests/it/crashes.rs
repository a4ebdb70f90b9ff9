//! `kill -9` at every step of a rotating refresh (standards B2 and B3, threats 100 and 107). The
//! authorization server rotates with each use and forgives nothing: a refresh token that was
//! used comes again, and its login is over. After each death a new process on the same store
//! has to go on, or to say that a login is needed and why; and that only where the server had
//! rotated and the new refresh token wasn't on the disk yet.
//!
//! ```text
//! proxy: locks -> entries read -> mark written -> request -> … -> rotated token written -> access token kept
//! killed:  |         |              |              on its way, held, unanswered, answered     |
//! ```

use std::{collections::BTreeMap, fmt, fs, process::Stdio, time::Duration};

use cupbearer::{
    credential::store::{Change, Embedded, Key, Kind, Store, StoreKey},
    demo::{
        AuthorizationServerHandle, WorldSettings,
        authorization_server::{Cause, Endpoint, Fault, Outcome, TokenRequest},
    },
};
use http::StatusCode;
use serde_json::Value;
use tokio::{
    process::Child,
    task::JoinHandle,
    time::{Instant, timeout},
};

use crate::{
    binary::{Home, LIMIT, Serve, Town},
    mortal::{self, Fate, Moment},
    support::Facts,
};

/// How long after the server's answer a process may still be allowed to live: within this time
/// it writes the rotated token, publishes the access token and keeps it.
const AFTER_THE_ANSWER: Duration = Duration::from_millis(20);

/// Longer than one write of the store takes where `fsync` costs nothing.
const ONE_WRITE: Duration = Duration::from_millis(3);

/// Each operation of the store in one refresh, in their order, and where the process dies at it.
#[tokio::test]
async fn killed_at_every_operation_of_the_store() {
    if mortal::is_started() {
        return mortal::live().await;
    }
    const NAME: &str = "crashes::killed_at_every_operation_of_the_store";
    let mut steps = Vec::new();
    for (operation, number) in [
        ("lock token", 1),
        ("get token", 1),
        ("lock session", 1),
        ("get session", 1),
        // The mark, and the rotated token.
        ("put session", 1),
        ("put session", 2),
        ("put token", 1),
    ] {
        for moment in [Moment::Before, Moment::After] {
            steps.extend([Step::Store(Fate { operation, number, moment }); 3]);
        }
        if operation.starts_with("put") {
            let within = |_| Step::Store(Fate { operation, number, moment: Moment::Within(random(ONE_WRITE)) });
            steps.extend((0..16).map(within));
        }
    }
    Scene::new(Program::Mortal(NAME)).await.play(alone(steps)).await;
}

/// From outside, at moments that the server knows, and at random ones around them.
#[tokio::test]
async fn killed_at_every_step_of_the_exchange() {
    if mortal::is_started() {
        return mortal::live().await;
    }
    const NAME: &str = "crashes::killed_at_every_step_of_the_exchange";
    let all = [(Step::OnItsWay, 50), (Step::Held, 16), (Step::Unanswered, 16), (Step::Answered, 60), (Step::Start, 16)];
    Scene::new(Program::Mortal(NAME)).await.play(alone(in_turn(&all))).await;
}

/// The process that comes after a death dies, too, before it knows what to make of it.
#[tokio::test]
async fn killed_twice_in_a_row() {
    if mortal::is_started() {
        return mortal::live().await;
    }
    const NAME: &str = "crashes::killed_twice_in_a_row";
    let steps = [Step::OnItsWay, Step::Held, Step::Unanswered, Step::Answered];
    let twice = steps.iter().flat_map(|one| steps.iter().map(|two| vec![*one, *two]));
    Scene::new(Program::Mortal(NAME)).await.play(twice.collect()).await;
}

/// The same with `cupbearer serve` as it is installed, on a disk.
#[tokio::test]
async fn serve_is_killed_at_every_step_of_the_exchange() {
    let all = [(Step::OnItsWay, 12), (Step::Held, 6), (Step::Unanswered, 6), (Step::Answered, 20), (Step::Start, 12)];
    Scene::new(Program::Serve).await.play(alone(in_turn(&all))).await;
}

/// What is made on a first start (the certificate authority, the store and its key, the admin
/// key) is whole or not there.
#[tokio::test]
async fn serve_is_killed_in_its_first_start() {
    const FILES: [&str; 5] =
        ["state", "state/ca", "state/tokens/store.key", "state/tokens/store.generation", "state/admin.key"];
    const ROUNDS: usize = 20;
    let scene = Scene::new(Program::Serve).await;
    let mut left = BTreeMap::<Vec<&str>, u32>::new();
    for round in 0..ROUNDS {
        let mut child = scene.spawn();
        let mark = scene.town.home.work(FILES[round % FILES.len()]);
        while !mark.exists() && child.try_wait().unwrap().is_none() {
            tokio::task::yield_now().await;
        }
        until(random(Duration::from_millis(5))).await;
        child.kill().await.unwrap();
        let exists = |name: &&str| scene.town.home.work(name).exists();
        *left.entry(FILES.into_iter().filter(exists).collect()).or_default() += 1;
        let root = fs::read(scene.town.home.work("state/ca/root.pem")).ok();
        let proxy = scene.start().await;
        assert_eq!(scene.agent_asks(&proxy).await.0, StatusCode::OK);
        let now = fs::read(scene.town.home.work("state/ca/root.pem")).unwrap();
        assert!(root.is_none_or(|root| root == now), "another certificate authority after a crash");
        proxy.kill().await;
        scene.check_the_store();
        fs::remove_dir_all(scene.town.home.work("state")).unwrap();
        scene.town.log_in();
    }
    eprintln!("kill -9 of serve in its first start: {ROUNDS} kills left {left:?}, each next start served");
    assert!(left.len() > 2, "the kills came at one moment only: {left:?}");
}

// === the steps ===

#[derive(Clone, Copy, Debug)]
enum Step {
    /// By its own hand.
    Store(Fate),
    /// At a random moment, from the order to refresh until usually all is done.
    OnItsWay,
    /// The server has the request and hasn't looked at it.
    Held,
    /// The server has rotated the refresh token; its answer never comes.
    Unanswered,
    /// At a random moment after the answer left.
    Answered,
    /// At a random moment of the next process's start.
    Start,
}

/// What the next process has to find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    Works,
    LoginRequired,
}

impl Step {
    /// `None`: depends on the moment.
    fn leaves(self) -> Option<Found> {
        match self {
            Self::Store(Fate { operation: "put session", number: 2, moment }) => match moment {
                Moment::Before => Some(Found::LoginRequired),
                Moment::Within(_) => None,
                Moment::After => Some(Found::Works),
            },
            Self::Store(_) | Self::Held | Self::Start => Some(Found::Works),
            Self::Unanswered => Some(Found::LoginRequired),
            Self::OnItsWay | Self::Answered => None,
        }
    }

    /// The access token is on the disk, too: the next process needs no request.
    fn keeps_the_access_token(self) -> bool {
        matches!(self, Self::Store(Fate { operation: "put token", moment: Moment::After, .. }))
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Store(Fate { operation, number, moment }) => {
                let moment = match moment {
                    Moment::Before => "before",
                    Moment::Within(_) => "within",
                    Moment::After => "after",
                };
                let operation = match (*operation, number) {
                    ("put session", 1) => "the mark is written",
                    ("put session", _) => "the rotated token is written",
                    ("put token", _) => "the access token is kept",
                    (other, _) => other,
                };
                write!(f, "{moment}: {operation}")
            }
            Self::OnItsWay => f.write_str("at a random moment of a refresh"),
            Self::Held => f.write_str("while the server holds the request"),
            Self::Unanswered => f.write_str("rotated and not answered"),
            Self::Answered => write!(f, "at most {AFTER_THE_ANSWER:?} after the answer"),
            Self::Start => f.write_str("during the start"),
        }
    }
}

fn alone(steps: Vec<Step>) -> Vec<Vec<Step>> {
    steps.into_iter().map(|step| vec![step]).collect()
}

/// All of them, mixed as evenly as it goes.
fn in_turn(all: &[(Step, usize)]) -> Vec<Step> {
    let most = all.iter().map(|(_, count)| *count).max().unwrap();
    (0..most).flat_map(|turn| all.iter().filter(move |(_, count)| turn < *count).map(|(step, _)| *step)).collect()
}

fn random(below: Duration) -> Duration {
    let mut bytes = [0; 4];
    aws_lc_rs::rand::fill(&mut bytes).unwrap();
    below.mul_f64(f64::from(u32::from_ne_bytes(bytes)) / f64::from(u32::MAX))
}

/// To the microsecond, while everything else goes on.
async fn until(delay: Duration) {
    let end = Instant::now() + delay;
    while Instant::now() < end {
        tokio::task::yield_now().await;
    }
}

// === the scene ===

#[derive(Clone, Copy)]
enum Program {
    /// The named test of this binary.
    Mortal(&'static str),
    Serve,
}

/// A town whose proxy lives on a refresh token, and dies of it.
struct Scene {
    town: Town,
    program: Program,
    http: reqwest::Client,
    /// What a refresh takes that nobody interrupts.
    refresh: Duration,
    start: Duration,
    counts: BTreeMap<String, Count>,
}

#[derive(Default)]
struct Count {
    works: u32,
    login: u32,
}

/// What the next process has to be judged by.
struct Death {
    /// Several processes may have died on the same refresh token.
    steps: Vec<Step>,
    /// Token requests before the exchange that they died in, and logins that were over.
    requests: usize,
    revoked: usize,
    /// Somebody had heard of a new token before the last of them died.
    published: bool,
}

impl Death {
    /// What is sure to be found.
    fn leaves(&self) -> Option<Found> {
        if let [only] = self.steps[..] { only.leaves() } else { None }
    }

    fn keeps_the_access_token(&self) -> bool {
        self.steps.last().is_some_and(|step| step.keeps_the_access_token())
    }
}

impl fmt::Display for Death {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let steps: Vec<String> = self.steps.iter().map(ToString::to_string).collect();
        f.write_str(&steps.join(", then "))
    }
}

impl Scene {
    async fn new(program: Program) -> Self {
        let home = match program {
            Program::Mortal(_) => Home::in_memory(),
            Program::Serve => Home::new(),
        };
        let town = Town::at(home, WorldSettings::default(), Facts::config_with_login).await;
        let http = reqwest::Client::builder().no_proxy().timeout(LIMIT).pool_max_idle_per_host(0).build().unwrap();
        let zero = Duration::ZERO;
        town.log_in();
        Self { town, program, http, refresh: zero, start: zero, counts: BTreeMap::new() }
    }

    /// One death after the other, each list of them judged by the process that comes after it.
    async fn play(mut self, lists: Vec<Vec<Step>>) {
        let started = Instant::now();
        let mut kills = 0;
        self.start = self.measure_the_start().await;
        let mut proxy = self.start().await;
        assert_eq!(self.agent_asks(&proxy).await.0, StatusCode::OK);
        let before = Instant::now();
        assert!(self.refresh(&proxy).await.unwrap());
        self.refresh = before.elapsed();
        for steps in lists {
            let (requests, revoked) = (self.server().token_request_count(), self.server().revoked_families().len());
            let mut death = Death { steps, requests, revoked, published: false };
            let mut alive = Some(proxy);
            for step in &death.steps {
                let next = match alive.take() {
                    Some(proxy) => proxy,
                    None => self.start().await,
                };
                death.published = self.kill(next, *step).await;
                self.check_the_store();
                kills += 1;
            }
            if !death.keeps_the_access_token() {
                self.forget_access_tokens();
            }
            proxy = self.start().await;
            self.judge(&proxy, &death).await;
        }
        proxy.kill().await;
        let program = if matches!(self.program, Program::Serve) { "serve" } else { "a proxy" };
        for (death, Count { works, login }) in &self.counts {
            eprintln!("kill -9 of {program}, {death}: {works} went on, {login} login_required");
        }
        let login: u32 = self.counts.values().map(|count| count.login).sum();
        let (revoked, took) = (self.server().revoked_families().len(), started.elapsed());
        eprintln!("kill -9 of {program}: {kills} kills in {took:.0?}, {login} login_required, each with its reason");
        assert_eq!(revoked, login as usize, "a login was over without a word");
    }

    fn server(&self) -> &AuthorizationServerHandle {
        self.town.world.authorization_server()
    }

    fn command(&self) -> tokio::process::Command {
        match self.program {
            Program::Mortal(name) => mortal::again(&self.town, name),
            Program::Serve => self.town.home.cupbearer(&["serve", "--log", "json"]),
        }
    }

    /// One that nobody listens to.
    fn spawn(&self) -> Child {
        self.command().stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    }

    async fn start(&self) -> Serve {
        Serve::start(self.command()).await
    }

    async fn measure_the_start(&self) -> Duration {
        let before = Instant::now();
        self.start().await.kill().await;
        before.elapsed()
    }

    // --- a death ---

    /// Whether somebody had heard by then that there is a new token.
    async fn kill(&self, mut proxy: Serve, step: Step) -> bool {
        let server = self.server();
        server.set_fault(None);
        let requests = server.token_request_count();
        let refresh = match step {
            Step::Store(fate) => {
                mortal::foretell(&mut proxy, fate).await;
                let refresh = self.spawn_refresh(&proxy);
                proxy.died().await;
                refresh
            }
            Step::OnItsWay => {
                let refresh = self.spawn_refresh(&proxy);
                until(random(self.refresh)).await;
                refresh
            }
            Step::Held => {
                server.set_fault(Some(Fault::Hold));
                let refresh = self.spawn_refresh(&proxy);
                soon(server.wait_for_token_requests(requests + 1)).await;
                refresh
            }
            Step::Unanswered | Step::Answered => {
                let done = server.token_requests().iter().filter(|request| request.outcome != Outcome::Pending).count();
                server.set_fault(Some(Fault::HoldAnswer));
                let refresh = self.spawn_refresh(&proxy);
                soon(server.wait_for_outcomes(Endpoint::Token, done + 1)).await;
                if matches!(step, Step::Answered) {
                    server.set_fault(None);
                    until(random(AFTER_THE_ANSWER)).await;
                }
                refresh
            }
            Step::Start => {
                let mut next = self.spawn();
                until(random(self.start)).await;
                next.kill().await.unwrap();
                tokio::spawn(async { false })
            }
        };
        if !matches!(step, Step::Store(_)) {
            proxy.kill().await;
        }
        // Whatever is held has no sender any more, and no effect.
        server.set_fault(Some(Fault::Disconnect));
        soon(refresh).await.unwrap()
    }

    fn spawn_refresh(&self, proxy: &Serve) -> JoinHandle<bool> {
        let refresh = self.refresh(proxy);
        tokio::spawn(async move { refresh.await.is_ok_and(|done| done) })
    }

    /// The operator wants a new token, now. An error: the proxy is dead.
    fn refresh(&self, proxy: &Serve) -> impl Future<Output = Result<bool, reqwest::Error>> + Send + use<> {
        let url = format!("http://{}/api/v1/tokens/orders/refresh", proxy.admin);
        let request = self.http.post(url).bearer_auth(self.town.admin_key());
        async move { Ok(request.send().await?.status() == StatusCode::OK) }
    }

    // --- what it leaves ---

    fn open(&self) -> Embedded {
        let opened = Embedded::open(&self.town.home.work(mortal::STORE), &StoreKey::File);
        opened.unwrap_or_else(|error| panic!("the store after a crash: {error} {error:?}"))
    }

    /// Every entry can be read, and there is nothing but the store's own files.
    fn check_the_store(&self) {
        let store = self.open();
        for key in store.keys().unwrap() {
            assert!(store.get(&key).unwrap().is_some(), "{key}");
        }
        let known = ["store.redb", "store.generation", "store.key", "store.lock", "locks", "store.redb.new"];
        for entry in fs::read_dir(self.town.home.work(mortal::STORE)).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            let aside = name == "store.generation.new" || name == "store.key.new";
            assert!(known.contains(&name.as_str()) || aside, "{name} was left behind");
        }
    }

    /// As if they had expired: the next process has to use the refresh token.
    fn forget_access_tokens(&self) {
        let store = self.open();
        let keys: Vec<Key> = store.keys().unwrap().into_iter().filter(|key| key.kind() == Kind::Token).collect();
        store.write(&keys.iter().map(Change::Remove).collect::<Vec<_>>()).unwrap();
    }

    // --- the next process ---

    async fn judge(&mut self, proxy: &Serve, death: &Death) {
        self.server().set_fault(None);
        let requests = self.server().token_request_count();
        let (status, body) = self.agent_asks(proxy).await;
        let since = self.server().token_requests().split_off(death.requests);
        let revoked = self.server().revoked_families().split_off(death.revoked);
        let log = || proxy.lines.join("\n");
        let found = match status {
            StatusCode::OK => Found::Works,
            StatusCode::FORBIDDEN => Found::LoginRequired,
            other => panic!("{death}: {other} {body}\n{}", log()),
        };
        match found {
            Found::Works => {
                assert_eq!(revoked, [], "{death}: the login is over, and nobody says so");
                assert!(since.iter().all(|request| !is_refused(request)), "{death}: {since:#?}");
                let asked = self.server().token_request_count() - requests;
                assert_eq!(asked, usize::from(!death.keeps_the_access_token()), "{death}: {since:#?}");
            }
            Found::LoginRequired => {
                assert!(!death.published, "{death}: a token was published and its refresh token lost");
                assert_eq!(revoked.len(), 1, "{death}: {body}");
                assert_eq!(revoked[0].cause, Cause::Reuse);
                assert_is_said(&body, &self.show(proxy).await);
                let refused = since.last().filter(|request| is_refused(request)).expect("it was refused by nobody");
                let rotated = since
                    .iter()
                    .any(|request| request.granted().is_some() && request.refresh_used() == refused.refresh_used());
                assert!(rotated, "{death}: the server never took the refresh token: {since:#?}");
                self.town.log_in();
                assert!(self.refresh(proxy).await.unwrap(), "a new login wasn't noticed");
                assert_eq!(self.agent_asks(proxy).await.0, StatusCode::OK);
            }
        }
        if let Some(leaves) = death.leaves() {
            assert_eq!(found, leaves, "{death}: {body}\n{since:#?}\n{}", log());
        }
        let count = self.counts.entry(death.to_string()).or_default();
        match found {
            Found::Works => count.works += 1,
            Found::LoginRequired => count.login += 1,
        }
    }

    /// What the operator is shown of the credential.
    async fn show(&self, proxy: &Serve) -> Value {
        let request = self.http.get(format!("http://{}/api/v1/tokens/orders", proxy.admin));
        request.bearer_auth(self.town.admin_key()).send().await.unwrap().json().await.unwrap()
    }

    /// An ordinary request by the base URL.
    async fn agent_asks(&self, proxy: &Serve) -> (StatusCode, Value) {
        let request = self.http.get(format!("http://{}/v1/orders", proxy.reverse)).bearer_auth(&self.town.key);
        let answer = request.send().await.unwrap_or_else(|error| panic!("{error}\n{}", proxy.lines.join("\n")));
        (answer.status(), answer.json().await.unwrap())
    }
}

/// What the agent reads where a login is over, and what `token show` says.
fn assert_is_said(body: &Value, shown: &Value) {
    let text = |name: &str| body[name].as_str().unwrap_or_default().to_owned();
    assert_eq!(text("code"), "login_required", "{body}");
    assert!(text("hint").contains("`cupbearer login orders`"), "{body}");
    assert_eq!(shown["login"]["state"], "needed", "{shown}");
    let reason = shown["last_error"].as_str().unwrap_or_default();
    assert!(reason.contains("a refresh broke off before its answer was kept"), "{shown}");
    assert!(reason.contains("leeway"), "{shown}");
}

fn is_refused(request: &TokenRequest) -> bool {
    matches!(request.outcome, Outcome::Refused { error: "invalid_grant", .. })
}

async fn soon<F: Future>(future: F) -> F::Output {
    timeout(LIMIT, future).await.expect("nothing happens")
}
