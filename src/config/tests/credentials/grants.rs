//! Each grant, whole.

use http::{HeaderName, Method};
use serde_json::json;

use super::*;
use crate::credential::{
    ClearText, EndpointKind, Location,
    grant::{Grant, HttpSource, LoginKind, Redirect, ciba, jwt_bearer, token_exchange},
    sign::Algorithm,
    step::{AudMode, BodyFormat, DpopUse, KeySource, Which},
};

#[test]
fn client_credentials_with_every_knob() {
    let step = step(&format!(
        "grant = \"client_credentials\"\n{CLIENT}\n{SECRET}\naudience = \"https://a\"\nscopes = [\"x\", \"y\"]
resource = [\"https://r/1\", \"https://r/2\"]\nparams = {{ organization = \"org_1\" }}\nheaders = {{ X-Tenant = \"one\" }}
body = \"json\"\nmethod = \"PUT\"\ndpop = \"preferred\""
    ));
    assert!(matches!(step.grant, Grant::ClientCredentials));
    assert_eq!(step.server.as_ref().unwrap().location, Location::Issuer("https://corp.example.com/".to_owned()));
    assert_eq!(step.client.id, "id");
    assert_eq!(step.ask.audience, ["https://a"]);
    assert_eq!(step.ask.scopes, ["x", "y"]);
    assert_eq!(step.ask.resource, ["https://r/1", "https://r/2"]);
    assert_eq!(step.ask.params, [("organization".to_owned(), "org_1".to_owned())]);
    assert_eq!(step.ask.headers[0].0, HeaderName::from_static("x-tenant"));
    assert_eq!((step.ask.body, &step.ask.method, step.dpop), (BodyFormat::Json, &Method::PUT, DpopUse::Preferred));
}

#[test]
fn refresh_tokens_come_from_a_source_or_another_credential() {
    let step = step(&format!("grant = \"refresh_token\"\n{CLIENT}\nrefresh_token = {{ env = \"OTHER_SECRET\" }}"));
    let Grant::Login(login) = &step.grant else { panic!() };
    assert_eq!((&login.kind, &login.seed, &login.of), (&LoginKind::RefreshToken, &Some(env("OTHER_SECRET")), &None));
    assert!(matches!(step.client.auth, ClientAuth::None));

    let tables = format!(
        "[credentials.user]\ngrant = \"device_code\"\n{CLIENT}\n
{}",
        table(&format!(
            "grant = \"refresh_token\"\n{CLIENT}\nrefresh_token = {{ credential = \"user\" }}\naudience = \"b\""
        ))
    );
    let settings = good(&file(&tables));
    let Grant::Login(login) = &settings.credentials[1].steps[0].grant else { panic!() };
    assert_eq!((login.of.as_ref().unwrap().as_str(), &login.seed), ("user", &None));
}

#[test]
fn logins_say_where_the_browser_comes_back_to() {
    let login = |keys: &str| {
        let Grant::Login(login) = step(&format!("grant = \"authorization_code\"\n{CLIENT}\n{keys}")).grant else {
            panic!()
        };
        login
    };
    let LoginKind::AuthorizationCode { redirect, params } = login("").kind else { panic!() };
    assert_eq!((redirect, params.len()), (Redirect { localhost: false, port: None }, 0));
    let exact = login(
        "redirect = { host = \"localhost\", port = 8400 }\nauthorize_params = { prompt = \"consent\" }\nrefresh_token = { file = \"seed\" }",
    );
    assert!(matches!(exact.seed, Some(Source::File(_))));
    let LoginKind::AuthorizationCode { redirect, params } = exact.kind else { panic!() };
    assert_eq!(redirect, Redirect { localhost: true, port: Some(8400) });
    assert_eq!(params, [("prompt".to_owned(), "consent".to_owned())]);
    let device = step(&format!("grant = \"device_code\"\n{CLIENT}"));
    assert!(matches!(device.grant, Grant::Login(login) if login.kind == LoginKind::DeviceCode));
}

#[test]
fn exchanges_take_tokens_from_everywhere() {
    let exchange = |keys: &str| {
        let Grant::TokenExchange(exchange) =
            step(&format!("grant = \"token_exchange\"\nauthorization_server = \"corp\"\n{keys}")).grant
        else {
            panic!()
        };
        exchange
    };
    let plain = exchange("subject = { env = \"CLIENT_SECRET\", type = \"urn:t\" }\naudience = [\"a\", \"b\"]");
    assert_eq!(plain.grant_type, token_exchange::GRANT_TYPE);
    assert!(matches!(&plain.subject.input, Input::Source(source) if *source == env("CLIENT_SECRET")));
    assert_eq!((plain.subject.token_type.as_str(), plain.requested_token_type), ("urn:t", None));
    let full = exchange(
        "grant_type = \"urn:g\"\nsubject = { agent = true }\nactor = { jwt = { key = { file = \"k\" }, sub = \"s\" } }\nrequested_token_type = \"urn:r\"",
    );
    assert_eq!((full.grant_type.as_str(), full.requested_token_type.as_deref()), ("urn:g", Some("urn:r")));
    assert!(matches!(full.subject.input, Input::Agent));
    assert_eq!(full.subject.token_type, "urn:ietf:params:oauth:token-type:access_token");
    let actor = full.actor.unwrap();
    assert_eq!(actor.token_type, "urn:ietf:params:oauth:token-type:jwt");
    assert_eq!((claims_of(&actor.input).sub.as_deref(), &claims_of(&actor.input).aud), (Some("s"), &AudMode::Issuer));
}

/// Standards 1.S: an ID-JAG is got at one server and used at another.
#[test]
fn steps_feed_on_each_other() {
    let user = format!("[credentials.user]\ngrant = \"authorization_code\"\n{CLIENT}\n\n");
    let tables = format!(
        "{user}[credentials.app]
hosts = [\"api.example.com\"]
[[credentials.app.steps]]
grant = \"token_exchange\"\n{CLIENT}
subject = {{ credential = \"user\", token = \"id_token\" }}
requested_token_type = \"urn:ietf:params:oauth:token-type:id-jag\"
[[credentials.app.steps]]
grant = \"jwt_bearer\"
authorization_server = \"plain\"
client_id = \"other\"
assertion = {{ previous = true }}
"
    );
    let settings = good(&file(&tables));
    let app = &settings.credentials[1];
    assert_eq!((app.steps.len(), app.grant()), (2, "jwt_bearer"));
    let Grant::TokenExchange(exchange) = &app.steps[0].grant else { panic!() };
    assert_eq!(exchange.subject.token_type, "urn:ietf:params:oauth:token-type:id_token");
    assert!(
        matches!(&exchange.subject.input, Input::Credential { name, which: Which::IdToken } if name.as_str() == "user")
    );
    let Grant::JwtBearer(bearer) = &app.steps[1].grant else { panic!() };
    assert_eq!(bearer.grant_type, jwt_bearer::GRANT_TYPE);
    assert!(matches!(bearer.assertion, Input::Previous));
    assert_eq!(app.steps[1].client.id, "other");
    assert!(warnings(&file(&tables)).contains("no route uses the credential `app`"));
    assert!(!warnings(&file(&tables)).contains("no route uses the credential `user`"), "the app does");
}

#[test]
fn assertions_are_made_as_the_file_says() {
    let keys = "grant = \"jwt_bearer\"\nauthorization_server = \"plain\"\nassertion = { jwt = { key = { file = \"a\" }, next_key = { env = \"CLIENT_SECRET\" },
key_id = \"1\", next_key_id = \"2\", alg = \"PS384\", certificate = \"corp.pem\", iss = \"i\", sub = \"s\", aud = \"x\", lifetime = \"2m\",
backdate = \"10s\", typ = \"t\", scope_claim = true, jti = false, claims = { n = 1, f = 1.5, l = [true, \"a\"], t = { d = 1979-05-27 } } } }";
    let Grant::JwtBearer(bearer) = step(&keys.replace(",\n", ", ")).grant else { panic!() };
    let made = claims_of(&bearer.assertion);
    let [first, second] = made.keys.as_slice() else { panic!() };
    assert!(matches!(&first.source, Source::File(path) if path.ends_with("a")));
    assert_eq!((first.algorithm, first.key_id.as_deref()), (Some(Algorithm::Ps384), Some("1")));
    assert!(first.certificate.as_ref().is_some_and(|path| path.ends_with("corp.pem")));
    let expected = KeySource {
        source: env("CLIENT_SECRET"),
        algorithm: Some(Algorithm::Ps384),
        key_id: Some("2".to_owned()),
        certificate: None,
    };
    assert_eq!(*second, expected);
    assert_eq!((made.iss.as_deref(), made.sub.as_deref(), made.typ.as_deref()), (Some("i"), Some("s"), Some("t")));
    assert_eq!(made.aud, AudMode::Literal("x".to_owned()));
    assert_eq!((made.lifetime, made.backdate), (Duration::from_secs(120), Duration::from_secs(10)));
    assert_eq!((made.scope_claim, made.jti), (true, false));
    let claims: serde_json::Map<String, serde_json::Value> = made.claims.iter().cloned().collect();
    assert_eq!(json!(claims), json!({"n": 1, "f": 1.5, "l": [true, "a"], "t": {"d": "1979-05-27"}}));
}

#[test]
fn saml_and_self_signed() {
    let saml = step(&format!("grant = \"saml2_bearer\"\n{CLIENT}\nassertion = {{ command = [\"saml\"] }}"));
    assert!(matches!(saml.grant, Grant::Saml2Bearer(bearer) if matches!(bearer.assertion, Source::Command { .. })));
    let own = step("grant = \"self_signed_jwt\"\njwt = { key = { file = \"k\" }, aud = \"https://api.example.com/\" }");
    assert!(own.server.is_none());
    let Grant::SelfSignedJwt(made) = own.grant else { panic!() };
    assert_eq!(made.aud, AudMode::Literal("https://api.example.com/".to_owned()));
    assert_eq!(made.lifetime, Duration::from_secs(3600));
}

#[test]
fn ciba_asks_one_human() {
    let servers = SERVERS.replace(
        "https://plain.example.com/token\"",
        "https://plain.example.com/token\"\nbackchannel_authentication_endpoint = \"https://plain.example.com/bc\"",
    );
    let keys = format!(
        "grant = \"ciba\"\nauthorization_server = \"plain\"\nclient_id = \"id\"\n{SECRET}\nscopes = [\"openid\"]
login_hint = \"a@b\"\nbinding_message = \"Order 17\"\nrequested_expiry = \"5m\""
    );
    let settings = good(&format!("{servers}{}", table(&keys)));
    let step = &settings.credentials[0].steps[0];
    let server = step.server.as_ref().unwrap();
    assert_eq!(
        server.endpoints,
        [(EndpointKind::BackchannelAuthentication, "https://plain.example.com/bc".to_owned())]
    );
    let Grant::Ciba(asked) = &step.grant else { panic!() };
    assert!(matches!(&asked.hint, ciba::Hint::LoginHint(hint) if hint == "a@b"));
    assert_eq!((asked.binding_message.as_deref(), asked.requested_expiry), (Some("Order 17"), Some(300)));
    for (key, token) in [("login_hint_token", true), ("id_token_hint", false)] {
        let keys = keys.replace("login_hint = \"a@b\"", &format!("{key} = {{ env = \"OTHER_SECRET\" }}"));
        let settings = good(&format!("{servers}{}", table(&keys)));
        let Grant::Ciba(asked) = &settings.credentials[0].steps[0].grant else { panic!() };
        assert_eq!(matches!(&asked.hint, ciba::Hint::LoginHintToken(_)), token);
        assert_eq!(settings.launch.secret_variables, ["CLIENT_SECRET", "OTHER_SECRET"]);
    }
}

fn http_source(step: &Step) -> &HttpSource {
    let Grant::Http(source) = &step.grant else { panic!() };
    source
}

#[test]
fn tokens_that_come_from_no_token_endpoint() {
    let any = step(
        "grant = \"http\"\nurl = \"https://iam.example.com/x:generateAccessToken\"\nauthorization = { env = \"CLIENT_SECRET\" }
json = { scope = [\"a\"], lifetime = \"3600s\" }\nanswer = { token = \"/accessToken\", expires_at = \"/expireTime\", extra = { a = \"/b~1c\" } }",
    );
    assert_eq!(http_source(&any).json, Some(json!({"scope": ["a"], "lifetime": "3600s"})));
    assert!(matches!(http_source(&any).authorization, Some(Input::Source(_))));
    assert_eq!(
        (any.answer.token.as_deref(), any.answer.expires_at.as_deref()),
        (Some("/accessToken"), Some("/expireTime"))
    );
    assert_eq!((any.answer.bearer, &any.ask.method), (true, &Method::POST));
    assert_eq!(any.answer.extra, [("a".to_owned(), "/b~1c".to_owned())]);
    let server = any.server.unwrap();
    assert_eq!((server.name.as_str(), server.clear_text), ("iam.example.com", ClearText::Never));
    assert_eq!(step("grant = \"http\"\nurl = \"https://a.example.com\"").ask.method, Method::GET);

    let machine = step(
        "grant = \"metadata_server\"\nurl = \"http://169.254.169.254/token?x=y\"\nheaders = { Metadata-Flavor = \"Google\" }",
    );
    assert_eq!((http_source(&machine).name, &machine.ask.method), ("metadata_server", &Method::GET));
    let server = machine.server.unwrap();
    assert_eq!(server.location, Location::TokenEndpoint("http://169.254.169.254/token?x=y".to_owned()));
    assert_eq!((server.name.as_str(), server.clear_text), ("169.254.169.254", ClearText::Metadata));
    for url in [
        "http://metadata.google.internal/x",
        "http://127.0.0.1:1/x",
        "http://[fd00:ec2::254]/x",
        "https://a.example.com/",
    ] {
        step(&format!("grant = \"metadata_server\"\nurl = \"{url}\""));
    }
}

#[test]
fn github_apps() {
    let app = step(
        "grant = \"github_app\"\nclient_id = \"Iv23\"\ninstallation_id = 17\nkey = { file = \"k\" }\nrepositories = [\"a\"]
permissions = { contents = \"read\", secrets = \"read\" }\napi_url = \"https://git.example.com/api/v3/\"\nheaders = { accept = \"x\" }",
    );
    let source = http_source(&app);
    assert_eq!(
        source.json,
        Some(json!({"repositories": ["a"], "permissions": {"contents": "read", "secrets": "read"}}))
    );
    let made = claims_of(source.authorization.as_ref().unwrap());
    assert_eq!((made.iss.as_deref(), &made.aud, made.jti), (Some("Iv23"), &AudMode::Absent, false));
    assert!(made.lifetime <= Duration::from_secs(600) && made.backdate == Duration::from_secs(60));
    let url = Location::TokenEndpoint("https://git.example.com/api/v3/app/installations/17/access_tokens".to_owned());
    assert_eq!(app.server.as_ref().unwrap().location, url);
    assert_eq!((app.answer.token.as_deref(), app.answer.expires_at.as_deref()), (Some("/token"), Some("/expires_at")));
    assert_eq!(app.ask.method, Method::POST);
    let accepts = app.ask.headers.iter().filter(|(name, _)| name == "accept").last().unwrap();
    assert_eq!(accepts.1, "x", "the last one of a name counts");
    let by_number = step("preset = \"github_app\"\napp_id = 4711\ninstallation_id = \"17\"\nkey = { file = \"k\" }");
    assert_eq!(claims_of(http_source(&by_number).authorization.as_ref().unwrap()).iss.as_deref(), Some("4711"));
    let url = Location::TokenEndpoint("https://api.github.com/app/installations/17/access_tokens".to_owned());
    assert_eq!(by_number.server.unwrap().location, url);
}

#[test]
fn secrets_go_where_the_api_wants_them() {
    let inject = |keys: &str| {
        let spec = spec(&format!("grant = \"static\"\ntoken = {{ env = \"CLIENT_SECRET\" }}\n{keys}"));
        assert!(
            matches!(&spec.steps[0].grant, Grant::Static { token, name: "static" } if *token == env("CLIENT_SECRET"))
        );
        (spec.injection.field.to_string(), spec.injection.template.to_string())
    };
    let expect = |field: &str, template: &str| (field.to_owned(), template.to_owned());
    assert_eq!(inject(""), expect("authorization", "Bearer {token}"));
    assert_eq!(inject("inject = { header = \"X-Api-Key\" }"), expect("x-api-key", "{token}"));
    assert_eq!(inject("inject = { scheme = \"Token\" }"), expect("authorization", "Token {token}"));
    assert_eq!(inject("inject = { header = \"x-a\", scheme = \"v1\" }"), expect("x-a", "v1 {token}"));
    let git = "Basic b64(x-access-token:{token})";
    assert_eq!(inject(&format!("inject = {{ template = \"{git}\" }}")), expect("authorization", git));
    let basic = spec("grant = \"basic\"\nusername = \"u\"\npassword = { env = \"CLIENT_SECRET\" }");
    assert!(matches!(&basic.steps[0].grant, Grant::Static { name: "basic", .. }));
    assert_eq!(basic.injection.template.to_string(), "Basic b64(u:{token})");
}
