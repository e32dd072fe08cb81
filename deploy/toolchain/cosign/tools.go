//go:build tools

// Package cosign pins Sigstore's cosign, for tests and benchmarks; it is built, never imported.
package cosign

import _ "github.com/sigstore/cosign/v3/cmd/cosign"
