"""Envoy sidecar configurations: described as records, built as Envoy's own messages, written as YAML, and checked.

    address, host, duration -> certificates -> sidecar      what differs between sidecars, read from text
    -> tls, connection_manager, filters, route, cluster     each builds one part from `envoy_data_plane` messages
    -> inbound | outbound -> document                       a whole configuration, and its file
    configuration -> rules -> lint, validation              any Envoy configuration, also one written by hand

Importing what builds messages takes half a second: import `document` where it is used, not at the top of a program.
"""
