//! SAML assertions as grants and as evidence (RFC 7522).

use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE, URL_SAFE_NO_PAD},
};

use super::*;

const SAML: (&str, &str) = ("grant_type", "urn:ietf:params:oauth:grant-type:saml2-bearer");
/// Its base64 needs padding and differs between the alphabets.
const XML: &str = "<Assertion>\u{ff}?>~</Assertion>";

#[tokio::test]
async fn a_known_assertion_is_taken_in_the_right_encoding_only() {
    let (world, client) = world().await;
    let server = world.authorization_server();
    server
        .change_client(CLIENT_ID, |client| {
            client.grants.extend([GrantType::Saml2Bearer, GrantType::TokenExchange]);
            client.saml_assertions = vec![SamlAssertion { xml: XML.to_owned(), subject: "alice".to_owned() }];
        })
        .unwrap();
    let ask = async |assertion: &str| post(&world, &client, &[SAML, AUD, ("assertion", assertion)]).await;
    let good = URL_SAFE_NO_PAD.encode(XML);
    let answer: Value = ask(&good).await.json().await.unwrap();
    assert_eq!(claims_of(&answer).sub, "alice");
    assert!(!good.len().is_multiple_of(4) && STANDARD.encode(XML).contains(['+', '/']), "the encodings do differ");
    let broken = format!("{}\n{}", &good[..8], &good[8..]);
    let bad =
        [URL_SAFE.encode(XML), STANDARD.encode(XML), broken, URL_SAFE_NO_PAD.encode("<Assertion/>"), XML.to_owned()];
    for assertion in bad {
        assert_eq!(error_of(ask(&assertion).await).await, (400, "invalid_grant".to_owned()), "{assertion}");
    }
    assert_eq!(error_of(ask("").await).await.1, "invalid_request");

    let evidence = [
        ("grant_type", GrantType::TokenExchange.name()),
        ("subject_token", good.as_str()),
        ("subject_token_type", "urn:ietf:params:oauth:token-type:saml2"),
        AUD,
    ];
    let answer: Value = post(&world, &client, &evidence).await.json().await.unwrap();
    assert_eq!(claims_of(&answer).sub, "alice");
    server.change_client(CLIENT_ID, |client| client.saml_assertions.clear()).unwrap();
    assert_eq!(error_of(ask(&good).await).await.1, "invalid_grant");
    assert_eq!(error_of(post(&world, &client, &evidence).await).await.1, "invalid_request");
}
