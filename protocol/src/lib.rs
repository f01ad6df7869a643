//! What may be said in Rendez: message header, status codes, kernel requests, interfaces.
