//! Connections that outlive the request that opened them: tunnels, and those that changed their
//! protocol. Each is judged again whenever the rules change, by the functions that let it in,
//! and cut once they wouldn't any more (threat 106).

use crate::{
    identity::{Evidence, TunnelIdentity},
    policy,
    primitives::Authority,
    route::Target,
};

use super::{Proxy, Rules, Tunnel, Unmatched, tunnel};

/// The stable code of what was cut.
pub const REVOKED: &str = "tunnel_revoked";

/// What a connection was let in for.
#[derive(Debug)]
pub struct Standing {
    identity: TunnelIdentity,
    way: Way,
}

#[derive(Debug)]
enum Way {
    Blind(Authority),
    /// A request, and the protocol that it changed to.
    Upgraded(Target, String),
}

impl Standing {
    pub(super) fn blind(identity: TunnelIdentity, authority: Authority) -> Self {
        Self { identity, way: Way::Blind(authority) }
    }

    pub(super) fn upgraded(identity: TunnelIdentity, target: Target, protocol: String) -> Self {
        Self { identity, way: Way::Upgraded(target, protocol) }
    }

    fn stands(&self, rules: &Rules) -> bool {
        let Ok(agent) = rules.registry.identify(Evidence::Tunnel(&self.identity)) else { return false };
        match &self.way {
            Way::Blind(authority) => {
                rules.unmatched == Unmatched::Tunnel
                    && !rules.routes.names_host(authority.host())
                    && !rules.broker.is_authorization_server(authority.host())
                    && tunnel::check_blind(&rules.authorization_servers, authority).is_ok()
            }
            Way::Upgraded(target, protocol) => {
                let Ok(candidates) = rules.routes.find(target) else { return false };
                let permit = policy::decide(agent, &candidates, target);
                permit.is_ok_and(|permit| permit.route().allows_upgrade(protocol))
            }
        }
    }
}

impl Tunnel {
    /// Whether its agent could open it today.
    fn stands(&self, rules: &Rules) -> bool {
        let Ok(agent) = rules.registry.identify(Evidence::Tunnel(&self.identity)) else { return false };
        let Ok(candidates) = rules.routes.find_authority(&self.authority) else { return false };
        policy::decide_tunnel(agent, &candidates, &self.authority).is_ok()
    }
}

impl Proxy {
    /// Returns once a connection that was let in would be refused.
    pub async fn revoked(&self, standing: &Standing) {
        self.until(|rules| !standing.stands(rules)).await;
    }

    /// As [`revoked`](Self::revoked), of an intercepted tunnel: requests under way in it end with
    /// that for a reason.
    pub async fn tunnel_revoked(&self, tunnel: &Tunnel) {
        self.until(|rules| !tunnel.stands(rules)).await;
        tunnel.revoke();
    }

    /// Looks at the rules now, since they may have changed since whoever asks was let in, and
    /// after each change.
    async fn until(&self, holds: impl Fn(&Rules) -> bool) {
        let mut changed = self.shared.changed.subscribe();
        while !holds(&self.shared.rules.load()) {
            // The sender lives as long as we do.
            let _ = changed.changed().await;
        }
    }
}
