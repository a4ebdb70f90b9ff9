//! What two benchmarks need alike: a permit for a route with a credential, and a broker that
//! has its token at hand.

use std::{io::Write, sync::Arc, time::Duration};

use cupbearer::{
    credential::{
        Broker, Injection, Settings, Source, Spec, Step,
        client_auth::Client,
        grant::Grant,
        step::{AnswerFormat, Ask, DpopUse},
        store::Memory,
    },
    identity::{AgentSettings, Registry},
    observe::{self, Recorder},
    policy::{self, Permit},
    primitives::{AgentName, Authority, CanonicalPath, CredentialName, RouteName, SystemClock},
    route::{
        AgentSet, CredentialBinding, CredentialId, Effect, HostPattern, PathPattern, RefreshOn, Route, Scheme, Table,
        Target, Upstream,
    },
};
use rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs::default_provider};
use tokio::runtime::Runtime;

/// A broker whose only token has been got; the runtime is where its flights run.
pub(crate) fn warm() -> (Runtime, Broker, Permit<'static>) {
    let runtime = Runtime::new().expect("a runtime");
    let settings = Settings {
        exchange_timeout: Duration::from_secs(10),
        lease_timeout: Duration::from_secs(10),
        storm_guard: Duration::from_secs(30),
        resolve: Vec::new(),
        transient: false,
        parent: None,
    };
    let recorder = Recorder::start(&observe::Settings::default()).expect("a recorder");
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    write!(file, "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJhIn0.c2lnbmF0dXJl").expect("a secret");
    let (clock, store) = (Arc::new(SystemClock), Arc::new(Memory::default()));
    let specs = vec![spec(Source::File(file.path().to_owned()))];
    let broker = Broker::new(specs, settings, clock, recorder, runtime.handle().clone(), store);
    let (broker, permit) = (broker.expect("a broker"), permit());
    runtime.block_on(broker.lease(&permit, Default::default())).expect("a token");
    (runtime, broker, permit)
}

fn spec(token: Source) -> Spec {
    let step = Step {
        grant: Grant::Static { token, name: "static" },
        server: None,
        client: Client::default(),
        ask: Ask::default(),
        answer: AnswerFormat::default(),
        dpop: DpopUse::Off,
    };
    Spec {
        name: CredentialName::parse("api").expect("a name"),
        steps: vec![step],
        scopes: None,
        max_scopes: Vec::new(),
        default_ttl: Duration::from_secs(86_400),
        strict_scopes: false,
        revoke_after_run: false,
        injection: Injection::default(),
    }
}

/// For a route that names methods, paths and a credential: everything is looked at.
/// Under rules that are lent for as long as the program runs.
fn permit() -> Permit<'static> {
    let tls = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .expect("TLS versions")
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let response_timeout = Duration::from_secs(1);
    let upstream =
        Upstream { id: 0, tls: Arc::new(tls), private_addresses: Vec::new(), response_timeout, direct: false };
    let hosts = vec![HostPattern::parse("api.example.com").expect("a host")];
    let credential = CredentialBinding {
        name: CredentialName::parse("api").expect("a name"),
        id: CredentialId(0),
        hosts: hosts.clone(),
        refresh_on: RefreshOn::default(),
        scrub: true,
        htu_base: None,
    };
    let route = Route {
        name: RouteName::parse("api").expect("a name"),
        hosts,
        methods: vec![http::Method::POST],
        paths: vec![PathPattern::parse("/v1/**").expect("a path")],
        agents: AgentSet::Any,
        effect: Effect::Allow,
        credential: Some(credential),
        upgrade_http: false,
        upgrades: Vec::new(),
        danger_allow_plaintext: false,
        upstream: Arc::new(upstream),
    };
    let target = Target {
        scheme: Scheme::Https,
        authority: Authority::parse("api.example.com:443", None).expect("an authority"),
        method: http::Method::POST,
        path: CanonicalPath::parse("/v1/messages").expect("a path"),
    };
    let name = AgentName::parse("researcher").expect("a name");
    let settings = AgentSettings { name: name.clone(), keys: Vec::new(), anonymous: false };
    let registry = Box::leak(Box::new(Registry::new(vec![settings])));
    let agent = registry.named(&name).expect("the agent");
    let table = Box::leak(Box::new(Table::compile(vec![Arc::new(route)]).expect("no ties")));
    policy::decide(agent, &table.find(&target).expect("a route"), &target).expect("a permit")
}
