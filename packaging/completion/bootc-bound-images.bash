# bash completion of bootc-bound-images
# shellcheck shell=bash

# The program knows its commands, options and values; it is asked in the protocol of click that is the
# same for all shells: the line, and the word to complete, answered by lines TYPE,VALUE<tab>HELP.
_bootc_bound_images() {
    local cur words cword type value typed prefix directories=
    # bash breaks words at colons and equals signs, which stand within references and options.
    if declare -F _comp_get_words >/dev/null; then
        _comp_get_words -n =: cur words cword
    elif declare -F _get_comp_words_by_ref >/dev/null; then
        _get_comp_words_by_ref -n =: cur words cword
    else
        cur=${COMP_WORDS[COMP_CWORD]} words=("${COMP_WORDS[@]}") cword=$COMP_CWORD
    fi
    # What bash itself takes for the word begins after the last of these; so must the answers.
    prefix=
    [[ $cur == --*=* ]] && typed=${cur#*=} || typed=$cur
    [[ $COMP_WORDBREAKS == *:* && $typed == *:* ]] && prefix=${typed%"${typed##*:}"}

    COMPREPLY=()
    while IFS=, read -r type value; do
        case $type in
            dir) directories=yes ;;
            file) compopt -o default ;;
            plain)
                value=${value%%$'\t'*}
                COMPREPLY+=("${value#"$prefix"}")
                # More follows these: a path, a reference, a value.
                [[ $value == *[:/=] ]] && compopt -o nospace
                ;;
        esac
    done < <(
        COMP_WORDS="${words[*]:0:cword+1}" COMP_CWORD="$cur" \
            _BOOTC_BOUND_IMAGES_COMPLETE=fish_complete "${words[0]}" 2>/dev/null
    )
    [[ $directories ]] || return 0
    # Directories alone are bash's own business. Among other values it would show all of them as files.
    if ((${#COMPREPLY[@]} == 0)); then
        compopt -o dirnames
    else
        while IFS= read -r value; do
            COMPREPLY+=("$(printf %q "$value")/")
            compopt -o nospace
        done < <(compgen -d -- "$typed")
    fi
}

complete -o nosort -F _bootc_bound_images bootc-bound-images
