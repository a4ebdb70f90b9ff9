//! The parent proxy of the config in the terms of `upstream`, which knows no places of
//! secrets.

use std::{error::Error, sync::Arc};

use crate::{
    credential::{ParentLogin, ParentProxy},
    upstream::{
        Parent,
        parent::{Login, LoginFuture, UserPassword},
    },
};

pub(super) fn parent(parent: &ParentProxy) -> Arc<Parent> {
    let login = parent.login.as_ref().map(|login| Arc::new(Shown(Arc::clone(login))) as Arc<dyn Login>);
    Arc::new(Parent { way: Arc::clone(&parent.parent), login })
}

/// The login that token requests use, too.
#[derive(Debug)]
struct Shown(Arc<ParentLogin>);

impl Login for Shown {
    fn read(&self) -> LoginFuture<'_> {
        Box::pin(async {
            match self.0.read().await {
                Ok(password) => Ok(UserPassword { user: self.0.user.clone(), password }),
                Err(error) => {
                    tracing::warn!(%error, "the parent proxy's password can't be read");
                    Err(Arc::new(error) as Arc<dyn Error + Send + Sync>)
                }
            }
        })
    }

    fn refused(&self) {
        tracing::warn!(user = self.0.user, "the parent proxy doesn't take our credentials");
        self.0.refused();
    }
}
