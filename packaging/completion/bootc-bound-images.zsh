#compdef bootc-bound-images
# zsh completion of bootc-bound-images

# The program knows its commands, options and values; it is asked in the protocol of click that is the
# same for all shells: the line, and the word to complete, answered by lines TYPE,VALUE<tab>HELP.
_bootc_bound_images() {
    local line type value help
    local -a described plain unfinished
    # The answers are values alone, also where the word is --option=VALUE.
    local word=${words[CURRENT]}
    [[ $PREFIX == --*=* ]] && compset -P 1 '*='
    for line in "${(@f)$(COMP_WORDS="${words[1,CURRENT]}" COMP_CWORD="$word" \
        _BOOTC_BOUND_IMAGES_COMPLETE=fish_complete ${words[1]} 2>/dev/null)}"; do
        type=${line%%,*}
        value=${${line#*,}%%$'\t'*}
        [[ $line == *$'\t'* ]] && help=${line#*$'\t'} || help=
        case $type in
            dir) _path_files -/ ;;
            file) _path_files ;;
            plain)
                # More follows these: a path, a reference, a value.
                if [[ $value == *[:/=] ]]; then
                    unfinished+=("$value")
                elif [[ -n $help ]]; then
                    described+=("${value//:/\\:}:$help")
                else
                    plain+=("$value")
                fi
                ;;
        esac
    done
    (( $#described )) && _describe -V value described
    (( $#plain )) && compadd -V value -a plain
    (( $#unfinished )) && compadd -S '' -V value -a unfinished
}

_bootc_bound_images "$@"
