//go:build tools

// Package rekor pins the transparency log Rekor v2; it is built for tests, never imported.
package rekor

import _ "github.com/sigstore/rekor-tiles/v2/cmd/rekor-server/posix"
