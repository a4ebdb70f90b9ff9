//! Each fault, as a client meets it, and the points where an answer can be held.

use super::*;

#[tokio::test]
async fn faults_that_answer_do_so_as_told_and_end() {
    let (world, client) = world().await;
    let server = world.authorization_server();
    server.set_fault_for(1, Fault::RetryAfter { status: 429, seconds: 7 });
    let answer = post(&world, &client, &[GRANT, AUD]).await;
    assert_eq!((answer.status().as_u16(), &answer.headers()[header::RETRY_AFTER]), (429, &"7".parse().unwrap()));
    assert_eq!(post(&world, &client, &[GRANT, AUD]).await.status(), 200);

    server.set_fault(Some(Fault::Redirect { status: 307, location: "https://evil.test/".to_owned() }));
    let answer = post(&world, &client, &[GRANT, AUD]).await;
    assert_eq!(
        (answer.status().as_u16(), &answer.headers()[header::LOCATION]),
        (307, &"https://evil.test/".parse().unwrap())
    );

    server.set_fault(Some(Fault::Status { status: 500, body: "{}".to_owned() }));
    assert_eq!(post(&world, &client, &[GRANT, AUD]).await.status(), 500);
    server.set_fault(Some(Fault::RawBody("{\"a\":".to_owned())));
    assert_eq!(post(&world, &client, &[GRANT, AUD]).await.text().await.unwrap(), "{\"a\":");
    server.set_fault(Some(Fault::Garbage));
    let answer = post(&world, &client, &[GRANT, AUD]).await;
    assert_eq!(answer.status(), 200);
    assert!(answer.json::<Value>().await.is_err());

    let members = [("token_type", json!("mac")), ("expires_in", Value::Null), ("access_token", json!("a\r\nb: c"))];
    let members = members.map(|(name, value)| (name.to_owned(), value)).into_iter().collect();
    server.set_fault(Some(Fault::Override(members)));
    let answer: Value = post(&world, &client, &[GRANT, AUD]).await.json().await.unwrap();
    assert_eq!((&answer["token_type"], answer.get("expires_in")), (&json!("mac"), None));
    assert_eq!(answer["access_token"], "a\r\nb: c");

    server.set_fault(None);
    assert_eq!(post(&world, &client, &[GRANT, AUD]).await.status(), 200);
    assert_eq!(server.token_request_count(), 8, "faulty answers are counted too");
}

#[tokio::test]
async fn a_lost_answer_has_had_its_effect_and_a_broken_connection_none() {
    let (world, client) = world().await;
    let server = world.authorization_server();
    let token = server.issue_refresh_token(CLIENT_ID, "read:orders").unwrap();
    let secret = world.client_secret().expose();
    let params = [
        ("grant_type", "refresh_token"),
        ("refresh_token", token.expose()),
        ("client_id", CLIENT_ID),
        ("client_secret", secret),
    ];
    server.set_fault(Some(Fault::Disconnect));
    assert!(token_post(&world, &client, &params).send().await.is_err());
    server.set_fault(Some(Fault::LoseAnswer));
    assert!(token_post(&world, &client, &params).send().await.is_err());
    server.set_fault(None);
    let answer = token_post(&world, &client, &params).send().await.unwrap();
    assert_eq!(error_of(answer).await.1, "invalid_grant", "the first use was the one whose answer got lost");
}

#[tokio::test]
async fn held_requests_pile_up_until_they_are_let_go() {
    let (world, client) = world().await;
    let world = std::sync::Arc::new(world);
    let server = world.authorization_server().clone();
    server.set_fault(Some(Fault::Hold));
    let requests: Vec<_> = (0..20)
        .map(|_| {
            let (world, client) = (std::sync::Arc::clone(&world), client.clone());
            tokio::spawn(async move { post(&world, &client, &[GRANT, AUD]).await.status() })
        })
        .collect();
    server.wait_for_token_requests(20).await;
    assert_eq!(server.issued().len(), 0);
    server.set_fault(None);
    for request in requests {
        assert_eq!(request.await.unwrap(), 200);
    }
}

#[tokio::test]
async fn a_stopped_server_cuts_what_hangs_and_accepts_nothing() {
    let (world, client) = world().await;
    let server = world.authorization_server().clone();
    server.set_fault(Some(Fault::Hang));
    let hanging = async {
        let all = [GRANT, AUD, ("client_id", CLIENT_ID), ("client_secret", "x")];
        token_post(&world, &client, &all).send().await
    };
    let stopping = async {
        server.wait_for_token_requests(1).await;
        world.stop_authorization_server();
    };
    let (answer, ()) = tokio::join!(hanging, stopping);
    assert!(answer.is_err());
    assert!(tokio::net::TcpStream::connect(world.authorization_server_address()).await.is_err());
}

/// The client's crash tests kill it while its answer is held: before the duty, nothing has
/// happened; after it, everything has.
#[tokio::test]
async fn an_answer_can_be_held_before_and_after_its_effect() {
    let (world, client) = world().await;
    let server = world.authorization_server();
    let token = server.issue_refresh_token(CLIENT_ID, "read:orders").unwrap();
    let all = [
        ("grant_type", "refresh_token"),
        ("refresh_token", token.expose()),
        ("client_id", CLIENT_ID),
        ("client_secret", world.client_secret().expose()),
    ];

    server.set_fault(Some(Fault::Hold));
    let let_go = async {
        server.wait_for_token_requests(1).await;
        server.set_fault(Some(Fault::Disconnect));
    };
    let (answer, ()) = tokio::join!(token_post(&world, &client, &all).send(), let_go);
    assert!(answer.is_err());
    server.wait_for_outcomes(Endpoint::Token, 1).await;
    assert_eq!(server.token_requests()[0].outcome, Outcome::Fault, "held before it had an effect");

    server.set_fault(Some(Fault::HoldAnswer));
    let lose = async {
        server.wait_for_outcomes(Endpoint::Token, 2).await;
        assert!(server.token_requests()[1].refresh_issued().is_some(), "held after its effect");
        server.set_fault(Some(Fault::Disconnect));
    };
    let (answer, ()) = tokio::join!(token_post(&world, &client, &all).send(), lose);
    assert!(answer.is_err());

    server.set_fault(Some(Fault::HoldAnswer));
    let release = async {
        server.wait_for_outcomes(Endpoint::Token, 3).await;
        server.set_fault(None);
    };
    let (answer, ()) = tokio::join!(token_post(&world, &client, &all).send(), release);
    assert_eq!(error_of(answer.unwrap()).await.1, "invalid_grant", "the lost answer had the new token");
}

#[tokio::test]
async fn a_refusal_is_held_and_lost_likewise() {
    let (world, client) = world().await;
    let server = world.authorization_server();
    server.set_fault(Some(Fault::HoldAnswer));
    let release = async {
        server.wait_for_outcomes(Endpoint::Token, 1).await;
        server.set_fault(None);
    };
    let (answer, ()) = tokio::join!(post(&world, &client, &[GRANT]), release);
    assert_eq!(answer.status(), 403);
    server.set_fault(Some(Fault::LoseAnswer));
    let request = token_post(&world, &client, &[GRANT, ("client_id", CLIENT_ID), ("client_secret", "wrong")]);
    assert!(request.send().await.is_err());
}
