//! The variables that make an unmodified program use the proxy and trust it
//! (standards 4.2). Pure: it reads the inherited environment that it is given, and
//! changes no process.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    fmt::Write,
};

use crate::primitives::Secret;

use super::{
    Error, Inherited, Settings, TrustFiles, no_proxy,
    trust::{ADDED_VARIABLES, BUNDLE_VARIABLES, TRUST_STORE_PASSWORD},
};

/// All get the same URL, because programs differ in which spelling wins.
const PROXY_VARIABLES: [&str; 14] = [
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "http_proxy",
    "https_proxy",
    "ALL_PROXY",
    "all_proxy",
    "grpc_proxy",
    "GLOBAL_AGENT_HTTP_PROXY",
    "npm_config_proxy",
    "npm_config_https_proxy",
    "CARGO_HTTP_PROXY",
    "CGI_HTTP_PROXY",
    "YARN_HTTP_PROXY",
    "YARN_HTTPS_PROXY",
];

/// Where the Secret Service listens.
const KEYRING_BUS: &str = "DBUS_SESSION_BUS_ADDRESS";
/// No transport has this name. Without the variable, D-Bus libraries would look for the bus
/// in `XDG_RUNTIME_DIR` and find it.
const NO_BUS: &str = "disabled:";

/// What happens to one variable.
#[derive(Clone, Debug)]
pub enum Change {
    Set(String),
    /// Holds the agent's key.
    SetSecret(Secret),
    Unset,
}

impl Change {
    /// The new value, secret or not: for the process and for those who asked to see it.
    pub fn value(&self) -> Option<&str> {
        match self {
            Self::Set(text) => Some(text),
            Self::SetSecret(secret) => Some(secret.expose()),
            Self::Unset => None,
        }
    }
}

/// The changes to an environment, and what the caller should tell the user about them.
#[derive(Debug)]
pub struct Plan {
    changes: BTreeMap<String, Change>,
    no_proxy_removed: Vec<String>,
    proxies_replaced: Vec<String>,
}

impl Plan {
    /// Changes that lead `inherited` through the proxy.
    ///
    /// # Errors
    /// A placeholder whose name no shell would take.
    pub fn new(settings: &Settings, trust: &TrustFiles, inherited: &Inherited) -> Result<Self, Error> {
        let mut plan = Self { changes: BTreeMap::new(), no_proxy_removed: Vec::new(), proxies_replaced: Vec::new() };
        plan.remove_secrets(settings, inherited);
        for (name, value) in &settings.placeholders {
            if !is_variable_name(name) {
                return Err(Error::VariableName { name: name.clone() });
            }
            plan.set(name, value.clone());
        }
        plan.set_proxy(settings, inherited);
        plan.set_trust(trust, inherited)?;
        let lists = ["NO_PROXY", "no_proxy"].map(|name| lossy(inherited, name));
        let merged = no_proxy::merge(lists.iter().map(String::as_str), &settings.routed_hosts);
        for name in ["NO_PROXY", "no_proxy"] {
            plan.set(name, merged.kept.join(","));
        }
        if settings.java {
            let options = java_options(settings, text(&trust.java)?, &no_proxy::for_java(&merged.kept));
            let own = lossy(inherited, "JAVA_TOOL_OPTIONS");
            plan.set("JAVA_TOOL_OPTIONS", if own.is_empty() { options } else { format!("{own} {options}") });
        }
        plan.no_proxy_removed = merged.removed;
        Ok(plan)
    }

    /// By name.
    pub fn changes(&self) -> impl Iterator<Item = (&str, &Change)> {
        self.changes.iter().map(|(name, change)| (name.as_str(), change))
    }

    /// `NO_PROXY` entries that would have led past the proxy: worth a line each.
    pub fn no_proxy_removed(&self) -> &[String] {
        &self.no_proxy_removed
    }

    /// Inherited variables that named another proxy. Names only: such URLs hold passwords.
    pub fn proxies_replaced(&self) -> &[String] {
        &self.proxies_replaced
    }

    /// The environment with the changes made.
    pub fn apply(&self, inherited: Inherited) -> BTreeMap<OsString, OsString> {
        let mut variables = inherited.into_variables();
        for (name, change) in &self.changes {
            match change.value() {
                Some(value) => variables.insert(name.into(), value.into()),
                None => variables.remove(OsStr::new(name)),
            };
        }
        variables
    }

    fn set(&mut self, name: &str, value: impl Into<String>) {
        self.changes.insert(name.to_owned(), Change::Set(value.into()));
    }

    fn remove_secrets(&mut self, settings: &Settings, inherited: &Inherited) {
        // Besides the directory of roots: OpenSSL and Go would add it to our bundle.
        for name in settings.secret_variables.iter().map(String::as_str).chain(["SSL_CERT_DIR"]) {
            if inherited.has(name) {
                self.changes.insert(name.to_owned(), Change::Unset);
            }
        }
        if settings.keyring {
            self.set(KEYRING_BUS, NO_BUS);
        }
    }

    fn set_proxy(&mut self, settings: &Settings, inherited: &Inherited) {
        let url = Secret::new(proxy_url(settings));
        for name in PROXY_VARIABLES {
            if inherited.value(name).is_some_and(|value| value != OsStr::new(url.expose())) {
                self.proxies_replaced.push(name.to_owned());
            }
        }
        for name in PROXY_VARIABLES.into_iter().chain(["CUPBEARER_PROXY"]) {
            self.changes.insert(name.to_owned(), Change::SetSecret(url.clone()));
        }
        // gcloud has a variable for each part, and no TLS to the proxy.
        self.set("CLOUDSDK_PROXY_TYPE", "http");
        self.set("CLOUDSDK_PROXY_ADDRESS", bare_host(settings));
        self.set("CLOUDSDK_PROXY_PORT", settings.proxy.port().to_string());
        if let Some(agent) = &settings.agent {
            self.set("CLOUDSDK_PROXY_USERNAME", agent.name.as_str());
            self.changes.insert("CLOUDSDK_PROXY_PASSWORD".to_owned(), Change::SetSecret(agent.key.clone()));
        }
        self.set("NODE_USE_ENV_PROXY", "1");
        self.set("CUPBEARER_RUN", "1");
    }

    fn set_trust(&mut self, trust: &TrustFiles, inherited: &Inherited) -> Result<(), Error> {
        for name in BUNDLE_VARIABLES {
            self.set(name, text(&trust.bundle)?);
        }
        for name in ADDED_VARIABLES {
            // Our root is enough, but where the variable named a file, its roots have to stay.
            let file = if inherited.value(name).is_some() { &trust.bundle } else { &trust.ca };
            self.set(name, text(file)?);
        }
        self.set("CUPBEARER_CA", text(&trust.ca)?);
        self.set("WGETRC", text(&trust.wgetrc)?);
        Ok(())
    }
}

/// Whether every shell takes `name` as a variable's (POSIX, XBD 3.216).
pub(super) fn is_variable_name(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(|first: char| first.is_ascii_digit())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

fn text(path: &std::path::Path) -> Result<&str, Error> {
    path.to_str().ok_or_else(|| Error::Path { path: path.to_owned() })
}

fn lossy(inherited: &Inherited, name: &str) -> String {
    inherited.value(name).map(|value| value.to_string_lossy().into_owned()).unwrap_or_default()
}

fn proxy_url(settings: &Settings) -> String {
    let scheme = if settings.proxy_tls { "https" } else { "http" };
    let mut url = format!("{scheme}://");
    if let Some(agent) = &settings.agent {
        percent_encode(&mut url, agent.name.as_str());
        url.push(':');
        percent_encode(&mut url, agent.key.expose());
        url.push('@');
    }
    url.push_str(settings.proxy.as_str());
    url
}

/// All but the unreserved characters (RFC 3986 §2.3).
fn percent_encode(out: &mut String, text: &str) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(byte));
        } else {
            // Writing to a String can't fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
}

/// The proxy's host without the brackets of an IPv6 address.
fn bare_host(settings: &Settings) -> String {
    match settings.proxy.host() {
        crate::primitives::Host::Name(name) => name.to_string(),
        crate::primitives::Host::Ip(address) => address.to_string(),
    }
}

/// The JVM reads no proxy variable and no PEM. It splits the options at white space and
/// takes quotes (JDK 9 and later).
fn java_options(settings: &Settings, trust_store: &str, non_proxy_hosts: &str) -> String {
    let (host, port) = (bare_host(settings), settings.proxy.port());
    let trust_store = if trust_store.contains(char::is_whitespace) {
        format!("\"-Djavax.net.ssl.trustStore={trust_store}\"")
    } else {
        format!("-Djavax.net.ssl.trustStore={trust_store}")
    };
    [
        format!("-Dhttp.proxyHost={host}"),
        format!("-Dhttp.proxyPort={port}"),
        format!("-Dhttps.proxyHost={host}"),
        format!("-Dhttps.proxyPort={port}"),
        // Also for https. An empty one is needed too: it replaces the JVM's own list.
        format!("-Dhttp.nonProxyHosts={non_proxy_hosts}"),
        trust_store,
        format!("-Djavax.net.ssl.trustStorePassword={TRUST_STORE_PASSWORD}"),
    ]
    .join(" ")
}

#[cfg(test)]
mod tests {
    use std::{path::PathBuf, process::Command};

    use super::*;
    use crate::{
        launch::AgentKey,
        primitives::{AgentName, Authority},
    };

    fn trust() -> TrustFiles {
        let file = |name: &str| PathBuf::from("/run/cb").join(name);
        TrustFiles { ca: file("ca.pem"), bundle: file("bundle.pem"), java: file("trust.jks"), wgetrc: file("wgetrc") }
    }

    fn settings() -> Settings {
        Settings {
            proxy: Authority::parse("127.0.0.1:3128", None).unwrap(),
            proxy_tls: false,
            agent: Some(AgentKey {
                name: AgentName::parse("researcher").unwrap(),
                key: Secret::new("k/e y@:%".to_owned()),
            }),
            placeholders: BTreeMap::from([("GH_TOKEN".to_owned(), "placeholder".to_owned())]),
            keyring: false,
            secret_variables: vec!["AUTH0_CLIENT_SECRET".to_owned(), "GH_TOKEN".to_owned(), "NOT_THERE".to_owned()],
            routed_hosts: vec!["api.example.com".to_owned()],
            java: true,
        }
    }

    fn inherited(variables: &[(&str, &str)]) -> Inherited {
        Inherited::new(variables.iter().map(|(name, value)| (name.into(), value.into())))
    }

    fn plan(settings: &Settings, variables: &[(&str, &str)]) -> (Plan, BTreeMap<String, String>) {
        let inherited = inherited(variables);
        let plan = Plan::new(settings, &trust(), &inherited).unwrap();
        let after = plan.apply(inherited);
        let after = after.into_iter().map(|(k, v)| (k.into_string().unwrap(), v.into_string().unwrap())).collect();
        (plan, after)
    }

    #[test]
    fn the_way_to_the_keyring_is_taken_out() {
        let bus = ("DBUS_SESSION_BUS_ADDRESS", "unix:path=/run/user/1000/bus");
        let (_, after) = plan(&settings(), &[bus]);
        assert_eq!(after["DBUS_SESSION_BUS_ADDRESS"], bus.1, "no secret of ours is there");
        let settings = Settings { keyring: true, ..settings() };
        for inherited in [&[bus][..], &[]] {
            assert_eq!(plan(&settings, inherited).1["DBUS_SESSION_BUS_ADDRESS"], "disabled:");
        }
    }

    #[test]
    fn the_table_is_set() {
        let (_, after) = plan(&settings(), &[("PATH", "/bin")]);
        const URL: &str = "http://researcher:k%2Fe%20y%40%3A%25@127.0.0.1:3128";
        for name in [
            "HTTP_PROXY",
            "HTTPS_PROXY",
            "http_proxy",
            "https_proxy",
            "ALL_PROXY",
            "all_proxy",
            "grpc_proxy",
            "GLOBAL_AGENT_HTTP_PROXY",
            "npm_config_proxy",
            "npm_config_https_proxy",
            "CARGO_HTTP_PROXY",
            "CGI_HTTP_PROXY",
            "YARN_HTTP_PROXY",
            "YARN_HTTPS_PROXY",
            "CUPBEARER_PROXY",
        ] {
            assert_eq!(after[name], URL, "{name}");
        }
        for name in [
            "SSL_CERT_FILE",
            "CURL_CA_BUNDLE",
            "REQUESTS_CA_BUNDLE",
            "PIP_CERT",
            "GIT_SSL_CAINFO",
            "AWS_CA_BUNDLE",
            "CARGO_HTTP_CAINFO",
            "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",
            "npm_config_cafile",
            "NIX_SSL_CERT_FILE",
            "HTTPLIB2_CA_CERTS",
            "PERL_LWP_SSL_CA_FILE",
            "CLOUDSDK_CORE_CUSTOM_CA_CERTS_FILE",
            "COMPOSER_CAFILE",
            "YARN_HTTPS_CA_FILE_PATH",
            "BUNDLE_SSL_CA_CERT",
            "CONDA_SSL_VERIFY",
            "HEX_CACERTS_PATH",
        ] {
            assert_eq!(after[name], "/run/cb/bundle.pem", "{name}");
        }
        for (name, value) in [
            ("NODE_EXTRA_CA_CERTS", "/run/cb/ca.pem"),
            ("DENO_CERT", "/run/cb/ca.pem"),
            ("WGETRC", "/run/cb/wgetrc"),
            ("NODE_USE_ENV_PROXY", "1"),
            ("NO_PROXY", "localhost,127.0.0.1,::1"),
            ("no_proxy", "localhost,127.0.0.1,::1"),
            ("CLOUDSDK_PROXY_TYPE", "http"),
            ("CLOUDSDK_PROXY_ADDRESS", "127.0.0.1"),
            ("CLOUDSDK_PROXY_PORT", "3128"),
            ("CLOUDSDK_PROXY_USERNAME", "researcher"),
            ("CLOUDSDK_PROXY_PASSWORD", "k/e y@:%"),
            ("CUPBEARER_RUN", "1"),
            ("CUPBEARER_CA", "/run/cb/ca.pem"),
            ("PATH", "/bin"),
        ] {
            assert_eq!(after[name], value, "{name}");
        }
    }

    #[test]
    fn secrets_go_and_placeholders_stay() {
        let variables =
            [("AUTH0_CLIENT_SECRET", "s3cret"), ("GH_TOKEN", "gho_real"), ("SSL_CERT_DIR", "/c"), ("HOME", "/h")];
        let (plan, after) = plan(&settings(), &variables);
        assert!(!after.contains_key("AUTH0_CLIENT_SECRET") && !after.contains_key("SSL_CERT_DIR"));
        assert_eq!((after["GH_TOKEN"].as_str(), after["HOME"].as_str()), ("placeholder", "/h"));
        assert!(!after.values().any(|value| value.contains("s3cret") || value.contains("gho_real")));
        let unset = plan.changes().filter(|(_, change)| matches!(change, Change::Unset)).map(|(name, _)| name);
        assert_eq!(unset.collect::<Vec<_>>(), ["AUTH0_CLIENT_SECRET", "SSL_CERT_DIR"]);
    }

    #[test]
    fn what_is_inherited_is_merged_and_told() {
        let variables = [
            ("NO_PROXY", "intranet,.example.com"),
            ("no_proxy", "other"),
            ("https_proxy", "http://user:pw@corp:8080"),
            ("HTTP_PROXY", ""),
            ("NODE_EXTRA_CA_CERTS", "/corp.pem"),
            ("JAVA_TOOL_OPTIONS", "-Xmx1g"),
        ];
        let (plan, after) = plan(&settings(), &variables);
        assert_eq!(after["NO_PROXY"], "localhost,127.0.0.1,::1,intranet,other");
        assert_eq!(after["no_proxy"], after["NO_PROXY"]);
        assert_eq!(plan.no_proxy_removed(), [".example.com"]);
        assert_eq!(plan.proxies_replaced(), ["https_proxy"]);
        assert_eq!(after["NODE_EXTRA_CA_CERTS"], "/run/cb/bundle.pem");
        assert_eq!(
            after["JAVA_TOOL_OPTIONS"],
            "-Xmx1g -Dhttp.proxyHost=127.0.0.1 -Dhttp.proxyPort=3128 -Dhttps.proxyHost=127.0.0.1 \
             -Dhttps.proxyPort=3128 -Dhttp.nonProxyHosts=localhost|127.*|[::1]|intranet|*.intranet|other|*.other \
             -Djavax.net.ssl.trustStore=/run/cb/trust.jks -Djavax.net.ssl.trustStorePassword=changeit"
        );
    }

    #[test]
    fn an_anonymous_command_has_no_credentials_and_java_can_be_left_alone() {
        let mut settings = settings();
        (settings.agent, settings.java, settings.proxy_tls) = (None, false, true);
        settings.proxy = Authority::parse("[::1]:3128", None).unwrap();
        let (_, after) = plan(&settings, &[("JAVA_TOOL_OPTIONS", "-Xmx1g")]);
        assert_eq!(after["https_proxy"], "https://[::1]:3128");
        assert_eq!(after["CLOUDSDK_PROXY_ADDRESS"], "::1");
        assert!(!after.contains_key("CLOUDSDK_PROXY_PASSWORD"));
        assert_eq!(after["JAVA_TOOL_OPTIONS"], "-Xmx1g");
    }

    #[test]
    fn the_key_shows_in_no_debug() {
        let settings = settings();
        let (plan, _) = plan(&settings, &[("AUTH0_CLIENT_SECRET", "s3cret")]);
        let shown = format!("{plan:?} {settings:?} {:?}", inherited(&[("A", "s3cret")]));
        assert!(!shown.contains("k/e") && !shown.contains("k%2Fe") && !shown.contains("s3cret"), "{shown}");
    }

    #[test]
    fn a_placeholder_has_to_be_a_variable() {
        for name in ["", "1A", "A-B", "A B", "A=B", "$(id)", "Ä"] {
            let mut settings = settings();
            settings.placeholders.insert(name.to_owned(), String::new());
            let error = Plan::new(&settings, &trust(), &Inherited::default()).unwrap_err();
            assert!(matches!(error, Error::VariableName { .. }), "{name}: {error}");
        }
    }

    /// The JVM says itself what it understood, also of a path with a space.
    #[test]
    fn the_jvm_reads_the_options() {
        let options = java_options(&settings(), "/run/c b/trust.jks", "localhost|127.*");
        let output = Command::new("java")
            .args(["-XshowSettings:properties", "-version"])
            .env("JAVA_TOOL_OPTIONS", options)
            .output()
            .expect("the java command is needed for this test");
        let text = String::from_utf8(output.stderr).unwrap();
        for line in [
            "javax.net.ssl.trustStore = /run/c b/trust.jks",
            "http.proxyHost = 127.0.0.1",
            "https.proxyPort = 3128",
            "http.nonProxyHosts = localhost|127.*",
        ] {
            assert!(text.contains(line), "{line} is not in {text}");
        }
    }
}
