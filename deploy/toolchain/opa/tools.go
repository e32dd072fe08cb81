//go:build tools

// Package opa pins the Open Policy Agent; it is built, never imported.
package opa

import _ "github.com/open-policy-agent/opa"
