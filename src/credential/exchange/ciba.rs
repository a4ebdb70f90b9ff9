//! A token that a human approves of, on a device of his own (CIBA Core 1.0, poll mode).

use serde::Deserialize;
use serde_json::Value;

use crate::{
    credential::{
        error::{Fault, Misbehaviour},
        grant::{Ciba, ciba},
        metadata::EndpointKind,
        request::TokenRequest,
        step::Step,
    },
    primitives::Secret,
};

use super::{Exchange, Output, ask::Question, poll::Pending};

#[derive(Deserialize)]
struct Begun {
    auth_req_id: String,
    expires_in: Option<Value>,
    interval: Option<Value>,
}

impl Exchange {
    /// A token that a human approved of.
    pub(super) async fn approved(
        &self,
        number: usize,
        step: &Step,
        ciba: &Ciba,
        scopes: &[&str],
    ) -> Result<Output, Fault> {
        let hint = match ciba.hint_source() {
            Some(source) => Some(self.tools.read(source).await?),
            None => None,
        };
        let question = Question { number, step, kind: EndpointKind::BackchannelAuthentication, scopes, prover: None };
        let make = || {
            let mut request = TokenRequest::new("", step.ask.body, http::Method::POST);
            ciba.ask(&mut request, hint.as_ref(), None).map_err(Fault::settings)?;
            step.ask.fill(&mut request, scopes).map_err(Fault::settings)?;
            Ok(request)
        };
        let (begun, _) = self
            .question(question, &make, |heard, request, wall| {
                let begun: Option<Begun> = heard.json(request, wall)?;
                let begun = begun.filter(|begun| !begun.auth_req_id.is_empty());
                begun.ok_or_else(|| Fault::protocol(Misbehaviour::Lacks("auth_req_id")))
            })
            .await?;
        let code = Secret::new(begun.auth_req_id);
        let pending = Pending::new(begun.interval.as_ref(), begun.expires_in.as_ref());
        let prover = self.own_prover(step)?;
        let question = Question { kind: EndpointKind::Token, prover: prover.as_ref(), ..question };
        let code = std::slice::from_ref(&code);
        let make = || step.request(code, scopes).map_err(Fault::settings);
        let reached = pending.poll(|| self.ask_for_token(question, &make)).await?;
        self.output(step, scopes, reached)
    }
}

impl Ciba {
    fn hint_source(&self) -> Option<&crate::credential::Source> {
        match &self.hint {
            ciba::Hint::LoginHint(_) => None,
            ciba::Hint::LoginHintToken(source) | ciba::Hint::IdTokenHint(source) => Some(source),
        }
    }
}
