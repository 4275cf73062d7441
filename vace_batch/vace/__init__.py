"""Run VACE on VCUs: model profiles, weights, LoRAs, engine; `training` fine-tunes the model. Only this room imports
diffusers and transformers; `profiles`, `weights`, `loras` and `sizing` import no torch.

May import the rooms vcu, manifest, video and storage.
"""
