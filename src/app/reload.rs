//! A new config for a running proxy: agents, routes, credentials and the limits of tokens
//! take effect with the next request, also inside open tunnels. Listeners, the other limits
//! and the upstreams' `[resolve]` want a restart. Open tunnels that the new rules don't allow
//! are cut. A bad config changes nothing.

use crate::{config, credential, observe::Event};

use super::{Running, confine, rules_with};

impl Running {
    /// Swaps the rules in whole.
    pub fn reload(&self, settings: &config::Settings) -> Result<(), credential::Error> {
        let current = self.shared.rules.load_full();
        let broker = current.broker.reconfigured(settings.credentials.clone(), settings.tokens.clone())?;
        // Before a request to a new host comes.
        confine(&self.authority, settings);
        self.shared.replace(rules_with(settings, broker, &current.registry));
        let detail = format!("{} routes, {} agents", settings.routes.len(), settings.agents.len());
        self.shared.recorder.event(Event::ConfigReloaded { accepted: true, detail });
        Ok(())
    }

    /// A config that can't be used is noted; the old one stays in force.
    pub fn reload_refused(&self, problems: usize) {
        let detail = format!("{problems} problems; the former config stays in force");
        self.shared.recorder.event(Event::ConfigReloaded { accepted: false, detail });
    }
}
