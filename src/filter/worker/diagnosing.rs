//! Answers, in the module for diagnosing alone: they pass as they come, and of a refused signature the reason is told.

use super::{ContextId, Host, Worker};
use crate::warnings::Warning;

impl Worker {
    /// An answer began; `ended`: and no body follows.
    pub fn on_response_headers(&mut self, context: ContextId, status: Option<u16>, ended: bool) {
        self.diagnosis.on_headers(context, status);
        if ended {
            self.diagnosis.forget(context);
        }
    }

    /// How many bytes of this answer's body are wanted at most.
    pub fn wants_of_response(&self, context: ContextId) -> usize {
        self.diagnosis.wants(context)
    }

    /// More of an answer's body came; `ended`: and that is all.
    pub fn on_response_body(&mut self, host: &mut impl Host, context: ContextId, more: &[u8], ended: bool) {
        if let Some(why) = self.diagnosis.on_body(context, more, ended) {
            let now = host.now().monotonic;
            self.warnings.warn(host, Warning::SignatureRefused, now, &why);
        }
    }
}
