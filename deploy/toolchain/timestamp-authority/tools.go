//go:build tools

// Package timestampauthority pins the RFC 3161 time stamp server of Sigstore; it is built for tests, never imported.
package timestampauthority

import _ "github.com/sigstore/timestamp-authority/v2/cmd/timestamp-server"
