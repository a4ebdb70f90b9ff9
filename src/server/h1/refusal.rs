//! What an agent reads whose request can't be read: a problem (RFC 9457) like any other.

use std::io::Write;

use http::StatusCode;

use crate::{http1::Fault, primitives::RequestId};

use super::date;

/// What is to be said of a fault.
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    detail: &'static str,
}

impl Refusal {
    /// `None` where nobody is left to read it.
    pub(super) fn of(fault: &Fault) -> Option<Self> {
        let (status, detail) = match fault {
            Fault::Io(_) | Fault::Closed | Fault::Body(_) => return None,
            Fault::Malformed => (StatusCode::BAD_REQUEST, "the request isn't HTTP/1.1"),
            Fault::Length => (StatusCode::BAD_REQUEST, "the request says in more than one way where its body ends"),
            Fault::TargetTooLong => (StatusCode::URI_TOO_LONG, "the request's target is longer than is taken"),
            Fault::TooLarge => (
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                "the request's head has more bytes or fields than are taken",
            ),
        };
        Some(Self { status, detail })
    }

    /// Appends a whole answer.
    pub(super) fn write(&self, out: &mut Vec<u8>, id: RequestId, head_bytes: usize) {
        let Self { status, detail } = self;
        let (title, status) = (status.canonical_reason().unwrap_or("Refused"), status.as_u16());
        let hint = match status {
            400 => "send a well-formed request".to_owned(),
            _ => format!("the limits are the operator's: [limits] request_head is {head_bytes} bytes"),
        };
        let problem = format!(
            "{{\"type\":\"urn:cupbearer:problem:bad_request\",\"title\":\"{title}\",\"status\":{status},\
             \"detail\":\"{detail}\",\"code\":\"bad_request\",\"hint\":\"{hint}\",\"request_id\":\"{id}\"}}\n"
        );
        // Writing to memory can't fail.
        let _ = write!(
            out,
            "HTTP/1.1 {status} {title}\r\ncontent-type: application/problem+json\r\ncache-control: no-store\r\n\
             x-cupbearer-error: bad_request\r\nproxy-status: cupbearer; error=http_request_error\r\n\
             content-length: {}\r\nconnection: close\r\n",
            problem.len()
        );
        date::write(out);
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(problem.as_bytes());
    }
}
