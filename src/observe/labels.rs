//! The label sets of the metrics, in the order of the surface contract. Written by hand,
//! so that names stay shared pointers and need not know of metrics.

use std::fmt::Error;

use prometheus_client::encoding::{EncodeLabel, EncodeLabelSet, LabelSetEncoder};

use super::{
    Record,
    metrics::{RequestOutcome, TokenOutcome},
};
use crate::primitives::{AgentName, CredentialName, ListenerName, RouteName};

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct RequestLabels {
    pub(super) listener: ListenerName,
    pub(super) agent: Option<AgentName>,
    pub(super) route: Option<RouteName>,
    pub(super) outcome: RequestOutcome,
}

impl RequestLabels {
    pub(super) fn of(record: &Record, outcome: RequestOutcome) -> Self {
        Self {
            listener: record.listener.clone(),
            agent: record.agent.get().cloned(),
            route: record.decision.route.get().cloned(),
            outcome,
        }
    }
}

impl EncodeLabelSet for RequestLabels {
    fn encode(&self, encoder: &mut LabelSetEncoder) -> Result<(), Error> {
        ("listener", self.listener.as_str()).encode(encoder.encode_label())?;
        ("agent", self.agent.as_ref().map_or("", |name| name.as_str())).encode(encoder.encode_label())?;
        ("route", self.route.as_ref().map_or("", |name| name.as_str())).encode(encoder.encode_label())?;
        ("outcome", self.outcome.as_str()).encode(encoder.encode_label())
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct TokenLabels {
    pub(super) credential: CredentialName,
    pub(super) grant: &'static str,
    pub(super) outcome: TokenOutcome,
}

impl EncodeLabelSet for TokenLabels {
    fn encode(&self, encoder: &mut LabelSetEncoder) -> Result<(), Error> {
        ("credential", self.credential.as_str()).encode(encoder.encode_label())?;
        ("grant", self.grant).encode(encoder.encode_label())?;
        ("outcome", self.outcome.as_str()).encode(encoder.encode_label())
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct ExpiryLabels {
    pub(super) credential: CredentialName,
}

impl EncodeLabelSet for ExpiryLabels {
    fn encode(&self, encoder: &mut LabelSetEncoder) -> Result<(), Error> {
        ("credential", self.credential.as_str()).encode(encoder.encode_label())
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct FailureLabels {
    pub(super) credential: CredentialName,
    pub(super) error: &'static str,
}

impl EncodeLabelSet for FailureLabels {
    fn encode(&self, encoder: &mut LabelSetEncoder) -> Result<(), Error> {
        ("credential", self.credential.as_str()).encode(encoder.encode_label())?;
        ("error", self.error).encode(encoder.encode_label())
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct DenialLabels {
    pub(super) reason: &'static str,
}

impl EncodeLabelSet for DenialLabels {
    fn encode(&self, encoder: &mut LabelSetEncoder) -> Result<(), Error> {
        ("reason", self.reason).encode(encoder.encode_label())
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct AlertLabels {
    pub(super) kind: &'static str,
}

impl EncodeLabelSet for AlertLabels {
    fn encode(&self, encoder: &mut LabelSetEncoder) -> Result<(), Error> {
        ("kind", self.kind).encode(encoder.encode_label())
    }
}
