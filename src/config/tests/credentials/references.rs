//! One credential against another, and against the servers that see its assertions.

use super::*;

/// E1, E2: the issuer is the audience, so there has to be one.
#[test]
fn an_issuer_as_audience_has_to_be_named() {
    let keys = "grant = \"client_credentials\"\nauthorization_server = \"plain\"\nclient_id = \"id\"\n";
    let jwt = "client_auth = { method = \"private_key_jwt\", key = { file = \"k\" } }";
    let (line, message, help) = wrong(&format!("{keys}{jwt}"));
    assert_eq!(line, 4);
    assert_eq!(message, "the audience is the issuer, and the authorization server `plain` names none");
    assert!(
        help.starts_with("add `issuer` to [authorization_servers.plain], or write `aud_mode = \"token_endpoint\"`")
    );
    for aud in ["aud_mode = \"token_endpoint\"", "aud_mode = \"endpoint\"", "aud = \"x\""] {
        step(&format!("{keys}{}", jwt.replace(" } }", &format!(" }}, {aud} }}"))));
    }
    let elsewhere =
        "grant = \"http\"\nurl = \"https://a.example.com/\"\nauthorization = { jwt = { key = { file = \"k\" } } }";
    assert_eq!(wrong(elsewhere).1, "the audience is the issuer, and there is none here");
}

/// E4.
#[test]
fn one_key_for_two_servers_needs_the_issuer_as_audience() {
    let credential = |name: &str, server: &str, key: &str, aud: &str| {
        format!(
            "[credentials.{name}]\nhosts = [\"api.example.com\"]\ngrant = \"client_credentials\"\nauthorization_server = \"{server}\"
client_id = \"id\"\nclient_auth = {{ method = \"private_key_jwt\", key = {{ file = \"{key}\" }}, aud_mode = \"{aud}\" }}\n"
        )
    };
    let with = |key: &str, aud: &str| {
        let other = credential("b", "other", key, aud);
        format!(
            "{}{other}\n[authorization_servers.other]\nissuer = \"https://other.example.com/\"\n",
            credential("a", "corp", "k", "issuer")
        )
    };
    good(&file(&with("k", "issuer")));
    good(&file(&with("l", "token_endpoint")));
    for aud in ["token_endpoint", "endpoint"] {
        let found = wrong_file(&with("k", aud));
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].0, 12);
        assert_eq!(
            found[0].1,
            "this key signs for `corp` too: with an endpoint as audience, one server could use an assertion at the other"
        );
        assert_eq!(found[0].2, "write `aud_mode = \"issuer\"`, or give each server a key of its own (RFC 10070)");
    }
    let same_server =
        format!("{}{}", credential("a", "corp", "k", "endpoint"), credential("b", "corp", "k", "endpoint"));
    good(&file(&same_server));
}

#[test]
fn credentials_that_feed_on_each_other() {
    let user = format!("[credentials.user]\ngrant = \"device_code\"\n{CLIENT}\n");
    let feed = |input: &str| {
        format!(
            "{user}{}",
            table(&format!("grant = \"jwt_bearer\"\nauthorization_server = \"corp\"\nassertion = {input}"))
        )
    };
    good(&file(&feed("{ credential = \"user\" }")));
    let found = wrong_file(&feed("{ credential = \"usr\" }"));
    assert_eq!(found[0].1, "there is no credential `usr`");
    assert_eq!(found[0].2, "did you mean `user`? The file has `user` and `c`");
    assert_eq!(found.len(), 1, "one mistake is one problem: {found:?}");
    let idle = wrong_file(&user);
    assert_eq!((idle[0].0, idle[0].1.as_str()), (1, "[credentials.user] has no `hosts`"), "nobody feeds on it");
    let circle = wrong_file(&feed("{ credential = \"c\" }"));
    assert_eq!(circle.last().unwrap().1, "credentials that wait for each other: c -> c");

    let link = |name: &str, other: &str| {
        format!(
            "[credentials.{name}]\nhosts = [\"api.example.com\"]\ngrant = \"jwt_bearer\"\nauthorization_server = \"corp\"\nassertion = {{ credential = \"{other}\" }}\n"
        )
    };
    let round = wrong_file(&format!("{}{}{}{}", link("x", "a"), link("a", "b"), link("b", "c"), link("c", "a")));
    assert_eq!(round.len(), 1, "once: {round:?}");
    assert_eq!((round[0].0, round[0].1.as_str()), (20, "credentials that wait for each other: a -> b -> c -> a"));
    assert_eq!(round[0].2, "one of them has to get its token from somewhere else");
}

#[test]
fn a_refresh_token_is_of_use_to_whom_it_was_issued() {
    let user = format!("[credentials.user]\nhosts = [\"api.example.com\"]\ngrant = \"device_code\"\n{CLIENT}\n");
    let other = |client: &str, of: &str| {
        table(&format!("grant = \"refresh_token\"\n{client}\nrefresh_token = {{ credential = \"{of}\" }}"))
    };
    good(&file(&format!("{user}{}", other(CLIENT, "user"))));
    for client in [CLIENT.replace("\"id\"", "\"od\""), CLIENT.replace("corp", "plain")] {
        let found = wrong_file(&format!("{user}{}", other(&client, "user")));
        assert_eq!((found.len(), found[0].0), (1, 11));
        assert_eq!(found[0].1, "the refresh token of `user` was issued by another server or to another client");
        assert_eq!(found[0].2, "use the `authorization_server` and the `client_id` of `user`");
    }
    let plain =
        format!("[credentials.m]\nhosts = [\"api.example.com\"]\ngrant = \"client_credentials\"\n{CLIENT}\n{SECRET}\n");
    let found = wrong_file(&format!("{plain}{}", other(CLIENT, "m")));
    assert_eq!(found[0].1, "the credential `m` holds no refresh token of its own");
    assert_eq!(found[0].2, "name one with the grant \"authorization_code\", \"device_code\" or \"refresh_token\"");
    let agents = "[credentials.a]\nhosts = [\"api.example.com\"]\ngrant = \"token_exchange\"\nauthorization_server = \"corp\"\nsubject = { agent = true }\n";
    let feeding = table("grant = \"jwt_bearer\"\nauthorization_server = \"corp\"\nassertion = { credential = \"a\" }");
    let found = wrong_file(&format!("{agents}{feeding}"));
    assert_eq!(found[0].1, "the tokens of `a` are one agent's each: no other credential can use them");
}
