//! What is peculiar to each provider (standards 2).

use super::*;
use crate::credential::{
    Location,
    client_auth::BasicEncoding,
    grant::Grant,
    sign::Algorithm,
    step::{AudMode, DpopUse},
};

#[test]
fn auth0() {
    let keys = format!("preset = \"auth0\"\ngrant = \"client_credentials\"\n{CLIENT}\n");
    let basic = "client_auth = { method = \"client_secret_basic\", secret = { env = \"CLIENT_SECRET\" } }";
    let step = step(&format!("{keys}audience = \"https://a\"\n{basic}"));
    assert!(matches!(step.client.auth, ClientAuth::SecretBasic { encoding: BasicEncoding::Raw, .. }));
    let own = basic.replace(" } }", " }, encoding = \"rfc6749\" }");
    let step = self::step(&format!("{keys}audience = \"https://a\"\n{own}"));
    assert!(
        matches!(step.client.auth, ClientAuth::SecretBasic { encoding: BasicEncoding::Rfc6749, .. }),
        "the file wins"
    );
    let jwt = format!("{keys}client_auth = {{ method = \"private_key_jwt\", key = {{ file = \"k\" }} }}");
    let ClientAuth::PrivateKeyJwt(made) = self::step(&jwt).client.auth else { panic!() };
    assert_eq!((made.aud, made.lifetime), (AudMode::Issuer, Duration::from_secs(60)));
    assert!(warnings(&file(&table(&jwt))).contains("auth0 needs an `audience` to know which API the token is for"));
    let (_, message, help) = wrong(&jwt.replace(" } }", " }, alg = \"ES256\" }"));
    assert_eq!(
        (message.as_str(), help.as_str()),
        ("the preset's provider doesn't take ES256", "write one of `RS256`, `RS384` and `PS256`")
    );
}

#[test]
fn okta() {
    let keys = format!(
        "preset = \"okta\"\ngrant = \"client_credentials\"\n{CLIENT}\nclient_auth = {{ method = \"private_key_jwt\", key = {{ file = \"k\" }} }}\n"
    );
    let step = step(&format!("{keys}scopes = [\"okta.users.read\"]"));
    assert_eq!(step.dpop, DpopUse::Required);
    let ClientAuth::PrivateKeyJwt(made) = &step.client.auth else { panic!() };
    assert_eq!(made.aud, AudMode::TokenEndpoint);
    assert_eq!(self::step(&format!("{keys}scopes = [\"a\"]\ndpop = \"off\"")).dpop, DpopUse::Off, "the file wins");
    let exchange = format!("preset = \"okta\"\ngrant = \"authorization_code\"\n{CLIENT}");
    assert_eq!(self::step(&exchange).dpop, DpopUse::Off);
    assert_eq!(wrong(&keys).1, "[credentials.c] has no `scopes`");
}

#[test]
fn entra() {
    let keys = format!("preset = \"entra\"\ngrant = \"client_credentials\"\n{CLIENT}\n");
    let auth = "client_auth = { method = \"private_key_jwt\", key = { file = \"k\" }, certificate = \"corp.pem\" }\n";
    let scopes = "scopes = [\"https://graph.microsoft.com/.default\"]";
    let ClientAuth::PrivateKeyJwt(made) = step(&format!("{keys}{auth}{scopes}")).client.auth else { panic!() };
    assert_eq!((&made.aud, made.keys[0].algorithm), (&AudMode::TokenEndpoint, Some(Algorithm::Ps256)));
    assert!(made.keys[0].certificate.is_some());
    let older = auth.replace("corp.pem\" }", "corp.pem\", alg = \"RS256\" }");
    let ClientAuth::PrivateKeyJwt(made) = step(&format!("{keys}{older}{scopes}")).client.auth else { panic!() };
    assert_eq!(made.keys[0].algorithm, Some(Algorithm::Rs256), "the file wins");
    let secret = format!("{SECRET}\n");
    let says =
        |keys: &str| wrong(&format!("preset = \"entra\"\ngrant = \"client_credentials\"\n{CLIENT}\n{secret}{keys}")).1;
    assert_eq!(says("scopes = [\"user.read\"]"), "entra wants scopes that end in `/.default`");
    assert_eq!(says("scopes = [\"a/.default\", \"b/.default\"]"), "entra gives tokens for one resource at a time");
    assert_eq!(says(&format!("{scopes}\naudience = \"a\"")), "entra knows no `audience`");
    assert_eq!(says(&format!("{scopes}\nresource = \"https://a\"")), "entra doesn't know `resource` (RFC 8707)");
    assert_eq!(says(""), "[credentials.c] has no `scopes`");
    let bare = "client_auth = { method = \"private_key_jwt\", key = { file = \"k\" } }\n";
    assert_eq!(wrong(&format!("{keys}{bare}{scopes}")).1, "`client_auth` has no `certificate`");
    // Federated: a token that another cloud, or Kubernetes, made.
    let foreign = "client_auth = { method = \"assertion\", assertion = { file = \"/var/run/token\" } }\n";
    assert!(matches!(step(&format!("{keys}{foreign}{scopes}")).client.auth, ClientAuth::Assertion { .. }));
}

#[test]
fn keycloak() {
    let keys = format!("preset = \"keycloak\"\n{CLIENT}\n{SECRET}\n");
    let (line, message, help) = wrong(&format!("{keys}grant = \"client_credentials\"\naudience = \"orders\""));
    assert_eq!((line, message.as_str()), (6, "keycloak takes `audience` in a token exchange only"));
    assert!(help.contains("audience mapper"), "{help}");
    let exchange =
        step(&format!("{keys}grant = \"token_exchange\"\naudience = \"orders\"\nsubject = {{ agent = true }}"));
    assert_eq!(exchange.ask.audience, ["orders"]);
    let resource = wrong(&format!("{keys}grant = \"client_credentials\"\nresource = \"https://a\""));
    assert_eq!(resource.1, "keycloak doesn't know `resource` (RFC 8707)");
}

#[test]
fn google() {
    let key = "jwt = { key = { file = \"sa.json\" } }";
    let account = step(&format!("preset = \"google\"\nassertion = {{ {key} }}\nscopes = [\"https://a\"]"));
    let server = account.server.as_ref().unwrap();
    assert_eq!(server.location, Location::TokenEndpoint("https://oauth2.googleapis.com/token".to_owned()));
    let Grant::JwtBearer(bearer) = &account.grant else { panic!() };
    let made = claims_of(&bearer.assertion);
    assert_eq!(made.aud, AudMode::Literal("https://oauth2.googleapis.com/token".to_owned()));
    assert_eq!((made.scope_claim, made.lifetime), (true, Duration::from_secs(3600)));
    let own = |more: &str| {
        let keys = format!("preset = \"google\"\ngrant = \"self_signed_jwt\"\n{more}");
        let Grant::SelfSignedJwt(made) = step(&keys).grant else { panic!() };
        made
    };
    let by_scope = own(&format!("{}\nscopes = [\"https://a\"]", key.replace(" } }", " }, sub = \"a@b\" }")));
    assert_eq!((by_scope.aud, by_scope.scope_claim), (AudMode::Absent, true));
    let by_audience = own(&key.replace(" } }", " }, sub = \"a@b\", aud = \"https://pubsub.googleapis.com/\" }"));
    assert_eq!(by_audience.aud, AudMode::Literal("https://pubsub.googleapis.com/".to_owned()));
    assert!(!by_audience.scope_claim, "not both");
}

#[test]
fn cognito() {
    let keys = format!("preset = \"cognito\"\ngrant = \"client_credentials\"\n{CLIENT}\n");
    step(&format!("{keys}{SECRET}\nscopes = [\"orders/read\"]\nparams = {{ aws_client_metadata = \"{{}}\" }}"));
    let (_, message, help) = wrong(&format!("{keys}{SECRET}\nscopes = [\"read\"]"));
    assert_eq!(message, "cognito wants scopes with their resource server");
    assert_eq!(help, "write \"RESOURCE-SERVER/read\"");
    assert_eq!(
        wrong(&format!("{keys}{SECRET}\nscopes = [\"a/b\"]\naudience = \"a\"")).1,
        "cognito knows no `audience`"
    );
    let jwt = "client_auth = { method = \"private_key_jwt\", key = { file = \"k\" } }\nscopes = [\"a/b\"]";
    let (_, message, help) = wrong(&format!("{keys}{jwt}"));
    assert_eq!(message, "cognito doesn't know the method \"private_key_jwt\"");
    assert_eq!(help, "write one of `client_secret_basic` and `client_secret_post`");
}

#[test]
fn salesforce() {
    let keys = "preset = \"salesforce\"\nauthorization_server = \"plain\"\nclient_id = \"id\"\nassertion = { jwt = { key = { file = \"k\" }, sub = \"u@example.com\" } }";
    let step = step(keys);
    let Grant::JwtBearer(bearer) = &step.grant else { panic!() };
    let made = claims_of(&bearer.assertion);
    assert_eq!(made.aud, AudMode::Literal("https://login.salesforce.com".to_owned()));
    assert_eq!(made.lifetime, Duration::from_secs(180));
    assert_eq!(step.answer.extra, [("instance_url".to_owned(), "/instance_url".to_owned())]);
    let sandbox = keys.replace("sub =", "aud = \"https://test.salesforce.com\", sub =");
    let Grant::JwtBearer(bearer) = self::step(&sandbox).grant else { panic!() };
    assert_eq!(claims_of(&bearer.assertion).aud, AudMode::Literal("https://test.salesforce.com".to_owned()));
    assert_eq!(wrong(&keys.replace(", sub = \"u@example.com\"", "")).1, "`jwt` has no `sub`");
    assert_eq!(wrong(&keys.replace("salesforce", "sales")).2, "did you mean `salesforce`?");
}

#[test]
fn github_app() {
    let keys = "preset = \"github_app\"\napp_id = 1\ninstallation_id = 1\nkey = { file = \"k\" }";
    let git = table(keys).replace("api.example.com", "github.com");
    let said = warnings(&file(&git));
    assert!(said.contains("git at github.com takes no Bearer token"), "{said}");
    assert!(said.contains("inject = { template = \"Basic b64(x-access-token:{token})\" }"), "{said}");
    let fitting = git.replace("preset", "inject = { template = \"Basic b64(x-access-token:{token})\" }\npreset");
    assert!(!warnings(&file(&fitting)).contains("no Bearer token"));
    assert!(!warnings(&file(&table(keys))).contains("no Bearer token"));
}
