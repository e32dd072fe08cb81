//go:build tools

// Package slsaverifier pins the SLSA project's verifier, for tests; it is built, never imported.
package slsaverifier

import _ "github.com/slsa-framework/slsa-verifier/v2/cli/slsa-verifier"
