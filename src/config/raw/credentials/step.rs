//! One step of a credential: the keys of its grant, and those that several grants share.

use crate::credential::{
    client_auth::{Client, ClientAuth},
    grant::Grant,
    step::{AnswerFormat, Ask, DpopUse},
};

use super::{
    super::super::{
        document::{At, Section},
        preset::Preset,
        problem::Span,
    },
    Kind, answer, ask, client_auth, grants,
    http_source::{self, Place},
    input::{Context, Notes},
    kind,
};

pub(in crate::config) struct Step {
    /// Where problems with it as a whole point to.
    pub(in crate::config) span: Span,
    /// `None`: a problem was reported.
    pub(in crate::config) kind: Option<Kind>,
    pub(in crate::config) server: Option<At<String>>,
    /// Instead of a server that the file names.
    pub(in crate::config) place: Option<Place>,
    /// `None`: a problem was reported.
    pub(in crate::config) grant: Option<Grant>,
    /// Likewise.
    pub(in crate::config) client: Option<Client>,
    pub(in crate::config) ask: Ask,
    pub(in crate::config) answer: AnswerFormat,
    pub(in crate::config) dpop: DpopUse,
    pub(in crate::config) notes: Notes,
}

/// What a step is part of.
#[derive(Clone, Copy)]
pub(super) struct Whole<'c> {
    /// The credential, as the file names it.
    pub(super) name: &'c str,
    pub(super) preset: &'static Preset,
    pub(super) is_first: bool,
}

/// `grant`, or what the preset says.
pub(super) fn kind(section: &mut Section<'_>, preset: &Preset) -> Option<Kind> {
    if preset.grant.is_none() {
        section.need("grant", "grant = \"client_credentials\"");
    }
    let chosen = section.choice("grant", &Kind::ALL, &[]);
    if section.has("grant") { chosen } else { preset.grant }
}

/// Without a `kind` the other keys can't be judged.
pub(super) fn step(section: &mut Section<'_>, kind: Option<Kind>, whole: Whole<'_>) -> Step {
    let mut step = Step {
        span: section.span.clone(),
        kind,
        server: None,
        place: None,
        grant: None,
        client: None,
        ask: Ask::default(),
        answer: AnswerFormat::default(),
        dpop: DpopUse::Off,
        notes: Notes::default(),
    };
    let Some(kind) = kind else { return step };
    let Whole { name, preset, is_first } = whole;
    let context = Context { kind, preset, name, is_first, has_scopes: section.has("scopes") };
    kind::refuse_foreign(section, kind);
    server(section, context, &mut step);
    step.client =
        if kind.is_served() { client_auth::client(section, context, &mut step.notes) } else { Some(Client::default()) };
    step.grant = grants::grant(section, context, &mut step.notes);
    step.ask = ask::ask(section, context);
    if kind == Kind::GithubApp {
        let own = std::mem::take(&mut step.ask.headers);
        step.ask.headers = http_source::github_headers().into_iter().chain(own).collect();
    }
    if kind.is_served() || kind.is_http() {
        step.answer = answer::answer(section, kind, preset);
    }
    if kind.is_served() {
        let uses = [("off", DpopUse::Off), ("preferred", DpopUse::Preferred), ("required", DpopUse::Required)];
        step.dpop = section.choice("dpop", &uses, &[]).unwrap_or(preset.dpop(kind));
    }
    check_binding(section, &step);
    step
}

fn server(section: &mut Section<'_>, context: Context<'_>, step: &mut Step) {
    if context.kind.is_http() {
        step.place = http_source::place(section, context.kind);
    }
    if !context.kind.is_served() {
        return;
    }
    let known = context.preset.token_endpoint;
    if known.is_none() {
        section.need("authorization_server", "authorization_server = \"NAME\"");
    }
    step.server = section.string("authorization_server", "authorization_server = \"auth0\"");
    if let Some(url) = known.filter(|_| !section.has("authorization_server")) {
        step.place = Some(Place::known(url, context.preset.name));
    }
}

/// A token is bound in one way.
fn check_binding(section: &Section<'_>, step: &Step) {
    let binds = step.client.as_ref().is_some_and(|client| matches!(client.auth, ClientAuth::Tls { bound: true, .. }));
    if binds && step.dpop != DpopUse::Off {
        let help = "take `dpop` out, or add `bound = false` to `client_auth`";
        section.doc.problem(&section.place("dpop"), "tokens would be bound to a certificate and to a DPoP key", help);
    }
}
