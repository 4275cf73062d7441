"""Run VACE on VCUs: model profiles, weights, LoRAs, engine. Only this room imports diffusers and transformers.

`profiles`, `weights`, `loras` and `sizing` import no torch. May import vcu and what lies below it.
"""
