"""Task `clouds`: satellite pictures, each pixel background, thick cloud, thin cloud or cloud shadow.

    task     Clouds: the options, the data, the loss and the metrics
    unet     the model, a dilated U-Net
    overlap  the Dice loss
    tiles    a folder of picture and mask tiles; cutting larger scenes into tiles
    scenes   seeded synthetic scenes, for machines without such a folder

`python -m roundtable.tasks.clouds` cuts tiles and writes synthetic ones. docs/tasks.md tells how to use it.
"""

from roundtable.tasks.clouds.task import Clouds

__all__ = ["Clouds"]
