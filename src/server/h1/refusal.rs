//! What an agent reads whose request can't be read: a problem (RFC 9457) like any other, but
//! of no request that could have a record.

use std::io::Write;

use crate::http1::Fault;

use super::date;

/// Appends a whole answer. Nothing where nobody is left to read it.
pub(super) fn write(out: &mut Vec<u8>, fault: &Fault, head_bytes: usize) {
    let (status, title, detail) = match fault {
        Fault::Io(_) | Fault::Closed | Fault::Body(_) => return,
        Fault::Malformed => (400, "Bad Request", "the request isn't HTTP/1.1"),
        Fault::Length => (400, "Bad Request", "the request says in more than one way where its body ends"),
        Fault::TargetTooLong => (414, "URI Too Long", "the request's target is longer than is taken"),
        Fault::TooLarge => {
            (431, "Request Header Fields Too Large", "the request's head has more bytes or fields than are taken")
        }
    };
    let hint = match status {
        400 => "send a well-formed request".to_owned(),
        _ => format!("the limits are the operator's: [limits] request_head is {head_bytes} bytes"),
    };
    let problem = format!(
        "{{\"type\":\"urn:cupbearer:problem:bad_request\",\"title\":\"{title}\",\"status\":{status},\
         \"detail\":\"{detail}\",\"code\":\"bad_request\",\"hint\":\"{hint}\"}}\n"
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
