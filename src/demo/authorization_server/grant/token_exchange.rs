//! One token for another (RFC 8693), and for an ID-JAG, which another server takes as a grant
//! (draft-ietf-oauth-identity-assertion-authz-grant §4.3).

use serde_json::{Value, json};

use crate::{
    demo::{
        authorization_server::{
            Shared,
            client_auth::Caller,
            consent::{Consent, scopes},
            error::OAuthError,
            evidence::{Evidence, TOKEN_TYPE},
            post::Reply,
            record::Granted,
            request::Params,
        },
        journal::lock,
        jwt::{Confirmation, Flaw},
        random_id,
    },
    primitives::Secret,
};

pub(super) const ID_JAG_TYPE: &str = "oauth-id-jag+jwt";

/// In seconds.
const ID_JAG_LIFE: u64 = 300;

/// What isn't for an API but for the next step only (RFC 8693 §2.2.1).
const NOT_APPLICABLE: &str = "N_A";

impl Shared {
    pub(super) fn exchange(&self, caller: &Caller, params: &Params) -> Result<Reply, OAuthError> {
        let wanted = params.get("requested_token_type");
        let subject = self.shown(caller, params, "subject_token", "subject_token_type")?;
        let subject = subject.ok_or_else(|| OAuthError::invalid_request("subject_token is missing"))?;
        let actor = self.shown(caller, params, "actor_token", "actor_token_type")?;
        let issued = match wanted {
            None => "access_token",
            Some(wanted) => wanted.strip_prefix(TOKEN_TYPE).unwrap_or_default(),
        };
        let mut reply = match issued {
            "access_token" | "jwt" => self.grant(caller, exchanged(caller, params, subject, actor)?, None)?,
            "refresh_token" => self.exchange_for_login(exchanged(caller, params, subject, actor)?)?,
            "id-jag" => self.issue_id_jag(caller, params, &subject)?,
            _ => return Err(OAuthError::invalid_request("tokens of the requested type aren't issued")),
        };
        reply.body["issued_token_type"] = format!("{TOKEN_TYPE}{issued}").into();
        Ok(reply)
    }

    /// A token and its type come together, or not at all.
    fn shown(
        &self,
        caller: &Caller,
        params: &Params,
        token: &'static str,
        token_type: &'static str,
    ) -> Result<Option<Evidence>, OAuthError> {
        match (params.secret(token), params.get(token_type)) {
            (None, None) => Ok(None),
            (Some(token), Some(token_type)) => {
                let evidence = self.evidence(&caller.client, &token, token_type);
                evidence.map(Some).map_err(|Flaw(flaw)| OAuthError::invalid_request(flaw))
            }
            _ => Err(OAuthError::invalid_request("a token and its type come together")),
        }
    }

    /// A refresh token, which the answer has where others have an access token.
    fn exchange_for_login(&self, consent: Consent) -> Result<Reply, OAuthError> {
        let (scope, audiences) = (consent.scopes.join(" "), consent.audiences.clone());
        let token = lock(&self.refresh_tokens).issue(consent).map_err(|_| OAuthError::server_error())?;
        Ok(not_applicable(&token, scope, audiences))
    }

    fn issue_id_jag(&self, caller: &Caller, params: &Params, subject: &Evidence) -> Result<Reply, OAuthError> {
        let audience =
            params.get("audience").filter(|audience| caller.client.audiences.iter().any(|it| it == audience));
        let audience = audience.ok_or_else(invalid_target)?;
        let scope = scopes(params, &caller.client.scopes)?.join(" ");
        let now = self.clock.unix_seconds();
        let mut claims = json!({
            "iss": self.issuer,
            "sub": subject.subject,
            "aud": audience,
            "client_id": caller.client.id_elsewhere.as_ref().unwrap_or(&caller.client.id),
            "jti": random_id().map_err(|_| OAuthError::server_error())?,
            "iat": now,
            "exp": now.saturating_add(ID_JAG_LIFE),
            "scope": scope,
        });
        let resources: Vec<&str> = params.all("resource").collect();
        match resources.as_slice() {
            [] => {}
            [one] => claims["resource"] = (*one).into(),
            several => claims["resource"] = several.into(),
        }
        let token = self.key.sign(&self.key.header(ID_JAG_TYPE), &claims).map_err(|_| OAuthError::server_error())?;
        let mut reply = not_applicable(&token, scope, vec![audience.to_owned()]);
        reply.body["expires_in"] = ID_JAG_LIFE.into();
        Ok(reply)
    }
}

fn exchanged(
    caller: &Caller,
    params: &Params,
    subject: Evidence,
    actor: Option<Evidence>,
) -> Result<Consent, OAuthError> {
    let consent = Consent::asked_for(&caller.client, &subject.subject, params);
    // RFC 8693 §2.2.2 has one word for both parameters.
    let consent = consent.map_err(|error| if error.code() == "access_denied" { invalid_target() } else { error })?;
    Ok(Consent { actor: acting(subject.actor, actor), ..consent })
}

/// The one who acts now around those who acted before (RFC 8693 §4.1).
fn acting(before: Option<Value>, now: Option<Evidence>) -> Option<Value> {
    let Some(now) = now else { return before };
    let mut actor = json!({ "sub": now.subject });
    if let Some(before) = before {
        actor["act"] = before;
    }
    Some(actor)
}

fn not_applicable(token: &Secret, scope: String, audiences: Vec<String>) -> Reply {
    let body = json!({ "access_token": token.expose(), "token_type": NOT_APPLICABLE, "scope": scope });
    let granted = Granted {
        scope,
        audiences,
        access_token: token.fingerprint(),
        refresh_token: None,
        token_type: NOT_APPLICABLE,
        bound_to: Confirmation::default(),
    };
    Reply { body, granted: Some(granted) }
}

fn invalid_target() -> OAuthError {
    OAuthError::bad_request("invalid_target", "the client may not have tokens for this target")
}
