//! What a route makes of its credential.

use super::*;
use crate::route::{CredentialId, RefreshOn};

fn route(name: &str, path: &str, keys: &str) -> String {
    format!(
        "\n[[routes]]\nname = \"{name}\"\nhosts = [\"api.example.com\"]\npaths = [\"/{path}\"]\nagents = [\"*\"]\ncredential = \"c\"\n{keys}\n"
    )
}

/// Scope per route: each distinct pair of credential and scopes is a spec, the plain one first.
#[test]
fn routes_want_scopes_of_their_own() {
    let c = table(&format!("grant = \"client_credentials\"\n{CLIENT}\n{SECRET}\nscopes = [\"read\", \"write\"]"));
    let d = c.replace("credentials.c", "credentials.d");
    let text = [
        c,
        d,
        route("read", "a", "scopes = [\"read\"]"),
        route("again", "b", "scopes = [\"read\"]"),
        route("more", "c", "scopes = [\"read\"]\nmax_scopes = [\"admin\"]"),
        route("same", "d", "scopes = [\"write\", \"read\"]"),
        route("plain", "e", ""),
    ];
    let settings = good(&file(&text.concat()));
    let specs: Vec<_> = settings
        .credentials
        .iter()
        .map(|spec| (spec.name.as_str(), spec.scopes.clone().unwrap_or_default().join(" "), spec.max_scopes.join(" ")))
        .collect();
    let expect = |name, scopes: &str, more: &str| (name, scopes.to_owned(), more.to_owned());
    assert_eq!(
        specs,
        [expect("c", "", ""), expect("d", "", ""), expect("c", "read", ""), expect("c", "read", "admin")]
    );
    let ids: Vec<CredentialId> = settings.routes.iter().map(|route| route.credential.as_ref().unwrap().id).collect();
    assert_eq!(ids, [2, 2, 3, 0, 0].map(CredentialId));
    assert_eq!(settings.credential_names().len(), 2);
}

#[test]
fn routes_say_which_answers_refuse_a_token() {
    let c = table(&format!("grant = \"client_credentials\"\n{CLIENT}\n{SECRET}"));
    let with = |keys: &str| {
        let settings = good(&file(&format!("{c}{}", route("r", "a", keys))));
        settings.routes[0].credential.clone().unwrap()
    };
    assert_eq!(with("").refresh_on, RefreshOn::InvalidToken);
    assert_eq!(with("refresh_on = \"any_401\"").refresh_on, RefreshOn::Any401);
    assert_eq!(with("refresh_on = \"never\"").refresh_on, RefreshOn::Never);
    let answer = |statuses: &[u16], body: Option<&str>| RefreshOn::Answer {
        statuses: statuses.to_vec(),
        body: body.map(str::to_owned),
    };
    assert_eq!(with("refresh_on = { status = 403 }").refresh_on, answer(&[403], None));
    assert_eq!(with("refresh_on = { status = [401, 403], body = \"x\" }").refresh_on, answer(&[401, 403], Some("x")));
    assert_eq!(with("htu_base = \"https://a.example.com/v1\"").htu_base.as_deref(), Some("https://a.example.com/v1"));
    assert!(with("").scrub && with("scrub = true").scrub && !with("scrub = false").scrub);

    let presets = [
        ("grant = \"github_app\"\napp_id = 1\ninstallation_id = 1\nkey = { file = \"k\" }", RefreshOn::Any401),
        (
            "preset = \"salesforce\"\nauthorization_server = \"corp\"\nassertion = { jwt = { key = { file = \"k\" }, sub = \"s\" } }",
            answer(&[401], Some("INVALID_SESSION_ID")),
        ),
    ];
    for (keys, expected) in presets {
        let settings = good(&file(&format!("{}{}", table(keys), route("r", "a", ""))));
        assert_eq!(settings.routes[0].credential.as_ref().unwrap().refresh_on, expected);
        let settings = good(&file(&format!("{}{}", table(keys), route("r", "a", "refresh_on = \"never\""))));
        assert_eq!(settings.routes[0].credential.as_ref().unwrap().refresh_on, RefreshOn::Never, "the file wins");
    }
}

#[test]
fn tokens_of_routes_that_make_no_sense() {
    let problem = |credential: &str, keys: &str| {
        let tables = format!("{}{}", table(credential), route("r", "a", keys));
        let mut found = wrong_file(&tables);
        assert_eq!(found.len(), 1, "{found:?}");
        let line = tables.lines().position(|line| line == keys).unwrap() + 1;
        let (at, message, help) = found.remove(0);
        assert_eq!(at, line, "{message}");
        (message, help)
    };
    let fixed = "grant = \"static\"\ntoken = { file = \"t\" }";
    assert_eq!(
        problem(fixed, "scopes = [\"a\"]"),
        (
            "the token of `c` doesn't depend on scopes: its grant is \"static\"".to_owned(),
            "take `scopes` out".to_owned()
        )
    );
    assert_eq!(problem(fixed, "max_scopes = [\"a\"]").1, "take `max_scopes` out");
    let login = format!("grant = \"device_code\"\n{CLIENT}\nscopes = [\"read\"]");
    let (message, help) = problem(&login, "scopes = [\"write\"]");
    assert_eq!(message, "the login of `c` doesn't ask for the scope `write`");
    assert_eq!(help, "add it to `scopes` of [credentials.c], and run `cupbearer login c` again");
    let entra =
        format!("preset = \"entra\"\ngrant = \"client_credentials\"\n{CLIENT}\n{SECRET}\nscopes = [\"a/.default\"]");
    assert_eq!(problem(&entra, "scopes = [\"read\"]").0, "entra wants scopes that end in `/.default`");
    assert_eq!(problem(fixed, "refresh_on = { status = 200 }").1, "write a number from 400 to 599");
    assert_eq!(problem(fixed, "refresh_on = { body = \"x\" }").0, "`refresh_on` has no `status`");
    assert_eq!(problem(fixed, "refresh_on = \"always\"").1, "write `invalid_token`, `any_401` and `never`");
    assert_eq!(
        problem(fixed, "refresh_on = 401").0,
        "`refresh_on` is a whole number, but wants \"invalid_token\", \"any_401\", \"never\" or a table"
    );
    assert_eq!(
        problem(fixed, "htu_base = \"http://a.example.com\"").0,
        "`htu_base` wants an https URL without a query"
    );
    let bare = route("r", "a", "scopes = [\"a\"]").replace("credential = \"c\"\n", "");
    let found = problems(&file(&bare));
    assert_eq!(found[0].1, "`scopes` is about a token, and this route has no credential");
}
