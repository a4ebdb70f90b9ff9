//! What makes no sense in one credential.

use super::*;
use crate::credential::{EndpointKind, Location};

#[test]
fn keys_go_with_their_grant() {
    let cc = format!("grant = \"client_credentials\"\n{CLIENT}\n{SECRET}\n");
    all_wrong(&[
        (
            &format!("{cc}subject = {{ agent = true }}"),
            5,
            "`subject` doesn't go with the grant \"client_credentials\"",
            "take it out; it goes with `token_exchange`",
        ),
        (
            "grant = \"static\"\ntoken = { file = \"t\" }\nscopes = [\"a\"]",
            3,
            "`scopes` doesn't go with the grant \"static\"",
            "take it out; it goes with `client_credentials`, `refresh_token`, `authorization_code`, `device_code`, `token_exchange`, `jwt_bearer`, `saml2_bearer`, `self_signed_jwt` and `ciba`",
        ),
        (
            &format!("{cc}audience = [\"a\", \"b\"]"),
            5,
            "more than one `audience`",
            "keep one; only a token exchange may ask for several (RFC 8693, section 2.1)",
        ),
        (
            &format!("{cc}params = {{ scope = \"a\" }}"),
            5,
            "`scope` is no extra parameter",
            "use the key `scopes` of the credential",
        ),
        (
            &format!("{cc}resource = \"api\""),
            5,
            "`api` is no resource: it wants an absolute URI without a fragment",
            "write `resource = \"https://api.example.com\"` (RFC 8707, section 2)",
        ),
        (
            &format!("{cc}headers = {{ Host = \"a\" }}"),
            5,
            "`host` can't be set",
            "take it out: it follows from the request",
        ),
        (
            &format!("{cc}headers = {{ X-Api-Key = \"hunter2\" }}"),
            5,
            "`x-api-key` is a secret's field, and a secret is never written in the file",
            "use `client_auth`, or `authorization` with the grant \"http\"",
        ),
        (&format!("{cc}method = \"GET\""), 5, "unknown method `GET`", "write `POST`, `PUT` and `PATCH`"),
        (
            &format!("{cc}answer = {{ token = \"data.token\" }}"),
            5,
            "`data.token` is no JSON pointer",
            "write \"/data/token\"",
        ),
        (
            &format!("{cc}answer = {{ expires_in = \"/a\", expires_at = \"/b\" }}"),
            5,
            "both `expires_in` and `expires_at`",
            "keep the one that the server's answers have",
        ),
        ("grant = \"password\"", 1, "unknown grant `password`", &wanted_grants()),
    ]);
}

fn wanted_grants() -> String {
    let names = raw::credentials::Kind::ALL.iter().map(|(name, _)| *name);
    format!("write {}", problem::listed(names))
}

#[test]
fn inputs_come_from_one_place() {
    let exchange = |subject: &str| {
        wrong(&format!("grant = \"token_exchange\"\nauthorization_server = \"corp\"\nsubject = {subject}"))
    };
    let (line, message, help) = exchange("\"eyJ.hunter2\"");
    assert_eq!(
        (line, message.as_str()),
        (3, "`subject` holds a token itself; only where it comes from may stand here")
    );
    assert!(help.starts_with("write `subject = { file = \"PATH\" }`, `{ credential = \"NAME\" }`"), "{help}");
    assert_eq!(exchange("{ type = \"t\" }").1, "`subject` doesn't say where its token comes from");
    let (_, message, help) = exchange("{ agent = true, env = \"CLIENT_SECRET\", type = \"t\" }");
    assert_eq!(message, "`subject` names more than one origin of its token");
    assert_eq!(help, "keep one of `env` and `agent`");
    assert_eq!(exchange("{ agent = false }").1, "`agent = false` says nothing");
    assert_eq!(exchange("{ file = \"f\" }").1, "`subject` has no `type`");
    assert_eq!(
        exchange("{ file = \"f\", type = \"t\", token = \"id_token\" }").1,
        "`token` goes with `credential` only"
    );
    let (_, message, help) = exchange("{ previous = true, type = \"t\" }");
    assert_eq!(message, "there is no step before this one");
    assert!(help.contains("[[credentials.c.steps]]"), "{help}");
}

#[test]
fn grants_that_make_no_sense() {
    let ciba = format!("grant = \"ciba\"\n{CLIENT}\n{SECRET}\n");
    all_wrong(&[
        (
            &format!("{ciba}login_hint = \"a\""),
            0,
            "the grant \"ciba\" wants the scope `openid`",
            "add \"openid\": scopes = [\"openid\"] (CIBA, section 7.1)",
        ),
        (
            &format!("{ciba}login_hint = \"a\"\nscopes = [\"profile\"]"),
            6,
            "the grant \"ciba\" wants the scope `openid`",
            "add \"openid\": scopes = [\"openid\"] (CIBA, section 7.1)",
        ),
        (
            &format!("{ciba}scopes = [\"openid\"]"),
            0,
            "[credentials.c] has no `login_hint`",
            "add `login_hint = \"user@example.com\"`",
        ),
        (
            &format!("{ciba}scopes = [\"openid\"]\nlogin_hint = \"a\"\nid_token_hint = {{ env = \"CLIENT_SECRET\" }}"),
            7,
            "more than one hint at who is asked",
            "keep one of `login_hint`, `login_hint_token` and `id_token_hint` (CIBA, section 7.1)",
        ),
        (
            &format!("{ciba}scopes = [\"openid\"]\nlogin_hint = \"a\"\nbinding_message = \"<b>\""),
            7,
            "`<b>` can't be read on every device",
            "write at most 64 letters, digits, blanks and `+-_.,:#`",
        ),
        (
            &format!("grant = \"authorization_code\"\n{CLIENT}\nauthorize_params = {{ state = \"x\" }}"),
            4,
            "`state` is no extra parameter",
            "take it out: `cupbearer login` sets it",
        ),
        (
            "grant = \"self_signed_jwt\"\njwt = { key = { file = \"k\" } }",
            2,
            "`jwt` has no `aud`",
            "add `aud = \"https://api.example.com/\"` or `aud_mode = \"none\"`",
        ),
        (
            "grant = \"http\"\nurl = \"http://iam.example.com/\"",
            2,
            "`url` is http: the token would pass in clear text",
            "write https://; a cloud's metadata server has the grant \"metadata_server\"",
        ),
        (
            "grant = \"http\"\nurl = \"https://a.example.com/\"\njson = { a = 1 }\nmethod = \"GET\"",
            3,
            "`json` makes a body, and GET has none",
            "write `method = \"POST\"`, or put it into the `url`",
        ),
        (
            "grant = \"http\"\nurl = \"https://a.example.com/\"\njson = { a = 1 }\nparams = { b = \"2\" }",
            4,
            "both `json` and `params`",
            "put what stands in `params` into `json`",
        ),
        (
            "grant = \"metadata_server\"\nurl = \"http://10.0.0.1/token\"",
            2,
            "`10.0.0.1:80` is no metadata server's address",
            "write https://; http:// is for link-local and loopback addresses and metadata.google.internal",
        ),
        (
            "grant = \"github_app\"\nclient_id = \"a\"\napp_id = 1\ninstallation_id = 1\nkey = { file = \"k\" }",
            3,
            "both `app_id` and `client_id`",
            "keep one of them",
        ),
        (
            "grant = \"github_app\"\napp_id = 1\ninstallation_id = \"mine\"\nkey = { file = \"k\" }",
            3,
            "`mine` is no number",
            "write `installation_id = 1234567`",
        ),
        (
            "grant = \"github_app\"\napp_id = 1\ninstallation_id = 1\nkey = { file = \"k\" }\nrepositories = [\"me/a\"]",
            5,
            "`me/a` has its owner before it",
            "write \"a\"",
        ),
        (
            "grant = \"basic\"\nusername = \"a:b\"\npassword = { file = \"p\" }",
            2,
            "`a:b` can't be a user's name here",
            "write visible ASCII characters but `:`, `(`, `)`, `{` and `}`",
        ),
    ]);
}

#[test]
fn injections_that_make_no_sense() {
    let inject = |keys: &str| {
        let (line, message, help) =
            wrong(&format!("grant = \"static\"\ntoken = {{ file = \"t\" }}\ninject = {{ {keys} }}"));
        assert_eq!(line, 3);
        (message, help)
    };
    assert_eq!(inject("scheme = \"A\", template = \"{token}\"").0, "both `scheme` and `template`");
    assert_eq!(inject("template = \"Bearer\"").0, "`Bearer` is no template: `{token}` doesn't stand in it");
    assert_eq!(inject("scheme = \"A b\"").1, "write one word: scheme = \"Token\"");
    assert_eq!(inject("header = \"a b\"").0, "`a b` is no name of a field");
    assert_eq!(inject("header = \"Host\"").0, "a token can't stand in `host`");
    let basic = "grant = \"basic\"\nusername = \"u\"\npassword = { file = \"p\" }\ninject = { scheme = \"A\" }";
    assert_eq!(wrong(basic).1, "`scheme` doesn't go with the grant \"basic\"");
    let cc = format!("grant = \"client_credentials\"\n{CLIENT}\n");
    let (line, message, _) = wrong(&format!("{cc}{SECRET}\ndpop = \"required\"\ninject = {{ scheme = \"Token\" }}"));
    assert_eq!((line, message.as_str()), (6, "`inject` and `dpop = \"required\"`"));
}

#[test]
fn steps_that_make_no_sense() {
    let steps = |direct: &str, first: &str, second: &str| {
        let list = format!("[[credentials.c.steps]]\n{first}\n[[credentials.c.steps]]\n{second}");
        let mut found = wrong_file(&table(&format!("{direct}\n{list}")));
        assert_eq!(found.len(), 1, "{found:?}");
        found.remove(0)
    };
    let one = "grant = \"jwt_bearer\"\nauthorization_server = \"corp\"\nassertion = { file = \"a\" }";
    let two = "grant = \"jwt_bearer\"\nauthorization_server = \"plain\"\nassertion = { previous = true }";
    let (line, message, help) = steps("grant = \"static\"", one, two);
    assert_eq!((line, message.as_str()), (3, "`grant` stands beside `steps`"));
    assert_eq!(help, "move it into one of the steps: [[credentials.c.steps]]");
    let (line, message, help) = steps("", one, one);
    assert_eq!((line, message.as_str()), (8, "nothing uses what step 1 of [credentials.c] gives"));
    assert_eq!(help, "write `{ previous = true }` in step 2, or take step 1 out");
    let (line, message, _) = steps("", two, two);
    assert_eq!((line, message.as_str()), (7, "there is no step before this one"));
    let (line, message, _) = steps("", one, &two.replace("authorization_server = \"plain\"\n", ""));
    assert_eq!((line, message.as_str()), (8, "step 2 of [credentials.c] has no `authorization_server`"));
    assert_eq!(wrong("steps = []").1, "`steps` is empty");
}

#[test]
fn servers_that_lack_what_a_grant_needs() {
    for (grant, endpoint) in
        [("authorization_code", "authorization_endpoint"), ("device_code", "device_authorization_endpoint")]
    {
        let keys = format!("grant = \"{grant}\"\nauthorization_server = \"plain\"\nclient_id = \"id\"");
        let (line, message, help) = wrong(&keys);
        assert_eq!(line, 2);
        assert_eq!(message, format!("the authorization server `plain` has no `{endpoint}`, which \"{grant}\" needs"));
        let line =
            format!("add `{endpoint} = \"https://…\"` to [authorization_servers.plain], or `issuer` to have it found");
        assert_eq!(help, line);
    }
    let text = SMALL.replace(
        "issuer = \"https://example.eu.auth0.com/\"",
        "issuer = \"https://example.eu.auth0.com/\"\ntoken_endpoint = \"https://token.example.com/\"",
    );
    let settings = good(&text);
    let server = settings.credentials[0].steps[0].server.as_ref().unwrap();
    assert_eq!(server.location, Location::Issuer("https://example.eu.auth0.com/".to_owned()));
    assert_eq!(server.endpoints, [(EndpointKind::Token, "https://token.example.com/".to_owned())]);
    let open = text.replace("https://token", "http://token");
    assert!(problems(&open)[0].1.starts_with("`token_endpoint` is http"));
    let reachable = format!("{text}\n[[routes]]\nname = \"x\"\nhosts = [\"token.example.com\"]\nagents = [\"*\"]\n");
    assert!(
        problems(&reachable)[0].1.starts_with("agents could reach the authorization server `auth0` (token.example")
    );
}
